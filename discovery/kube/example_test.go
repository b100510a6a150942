package kube_test

import (
	"fmt"

	"github.com/dynplane/dynplane/discovery/kube"
)

// A worker requires only the values that the downward API provides.
func ExampleFromEnv() {
	env := map[string]string{"POD_NAME": "worker-0", "POD_UID": "3c1e", "POD_NAMESPACE": "dynamo"}
	options, err := kube.FromEnv(func(name string) (string, bool) { // os.LookupEnv
		value, ok := env[name]
		return value, ok
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(options.Namespace, options.PodName)
	fmt.Println(options.InstanceID()) // for discovery.Options
	// Output:
	// dynamo worker-0
	// 1186445869714687
}
