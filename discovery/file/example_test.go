package file_test

import (
	"context"
	"fmt"
	"os"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/file"
)

func Example() {
	root, err := os.MkdirTemp("", "registrations")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(root)

	store, err := file.New(file.Options{Root: root}) // or what file.FromEnv returns
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	client := discovery.NewClient(store, discovery.Options{})
	defer func() { _ = client.Shutdown(ctx) }()

	_, err = client.RegisterAs(ctx, 42, discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"},
		Transport: discovery.TCP("10.0.0.7:41231/2a/generate"),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	files, err := os.ReadDir(root + "/v1/instances")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(files[0].Name())
	// Output: dynamo%2Fbackend%2Fgenerate%2F2a
}
