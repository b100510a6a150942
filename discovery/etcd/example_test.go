package etcd_test

import (
	"context"
	"fmt"
	"os"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/etcd"
)

// Dial fails within ten seconds if no etcd answers at the addresses.
func ExampleDial() {
	ctx := context.Background()
	options, err := etcd.FromEnv(os.LookupEnv)
	if err != nil {
		fmt.Println(err)
		return
	}
	store, err := etcd.Dial(ctx, options)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := discovery.NewClient(store, discovery.Options{})
	defer func() { _ = client.Shutdown(ctx) }()
	workers, err := client.List(ctx, discovery.Query{Kind: discovery.KindEndpoint})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, worker := range workers {
		fmt.Println(worker.ID())
	}
}

func ExampleFromEnv() {
	env := map[string]string{"ETCD_ENDPOINTS": "http://etcd-0:2379,http://etcd-1:2379", "ETCD_LEASE_TTL": "20"}
	options, err := etcd.FromEnv(func(name string) (string, bool) { value, ok := env[name]; return value, ok })
	fmt.Println(options.Endpoints, options.TTL, err)
	// Output: [http://etcd-0:2379 http://etcd-1:2379] 20s <nil>
}
