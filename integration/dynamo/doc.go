// Package dynamo holds the tests of this module beside the real runtime of
// NVIDIA Dynamo: workers, subscribers and routers of its Python wheel, each a
// process of its own, exchange registrations and events with ours.
//
// The versions are pinned in requirements-*.txt: 1.6.1, and 1.3.1 for the older
// generation, which has other keys and scopes. The script venv installs them into
// the user's cache; it needs Python 3.10 or later. The peers are in the folder
// peers. Package dynamotest starts them, also for the tests on Kubernetes in
// integration/kube.
//
// `make interop` runs all of it, except for TestDeployment, which
// `make interop-deployment` runs: mocked workers and frontends on a broker of ours.
// Their packages are pinned in a file of their own. `make test` runs the cases of
// TestExchange that need least, if the runtime can be installed. One case:
//
//	cd integration/dynamo && go test -run 'TestExchange/1.6.1/etcd/two_brokers' -v .
//
// A case of TestExchange is a version, a store and a transport. Both sides get
// their settings from the environment, as programs do. All listen on 127.0.0.1,
// except for workers of 1.3.1, which bind all addresses and advertise the first
// that is not a loopback address.
package dynamo
