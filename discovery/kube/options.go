package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Mode selects what counts as a worker.
type Mode string

// The modes.
const (
	// ModePod treats each pod as one worker.
	ModePod Mode = "pod"
	// ModeContainer treats each container of a pod as a worker.
	ModeContainer Mode = "container"
)

// defaultMain is the container whose object has the name of its pod, unless the
// options name another one.
const defaultMain = "main"

// Options are the settings of a [Store]. The zero value is useful for reading the
// pods of the namespace that the connection's configuration names.
type Options struct {
	// Mode is ModePod or ModeContainer; empty means ModePod. Readers see the
	// workers of their own mode and, in both modes, the main containers.
	Mode Mode

	// PodName and PodUID identify this pod. Registering requires both, reading
	// neither.
	PodName, PodUID string

	// Container is the name of this container; registering in ModeContainer
	// requires it. MainContainer is the container whose object has the name of
	// the pod; empty means main.
	Container, MainContainer string

	// LogicalID, unless 0, is the id that InstanceID returns. Several pods, a
	// worker and its stand-by, may share one; readers see the registrations of
	// the one whose object is newer.
	LogicalID uint64

	// Namespace is that of the pods and objects. Empty means the one of the
	// kubeconfig's context or of this pod's service account, and otherwise
	// default.
	Namespace string

	// Config is the connection to the API server. If it is nil, Kubeconfig
	// lists the files that describe it, as KUBECONFIG does; if both are empty,
	// the service account of this pod is used.
	Config     *rest.Config
	Kubeconfig string

	// Logger receives warnings when the API server is lost or recovered; nil
	// disables logging.
	Logger *slog.Logger
}

// podInfo is the directory in which Dynamo's deployments mount the names of a pod.
const podInfo = "/etc/podinfo"

// FromEnv returns the options that Dynamo's variables describe; an empty
// variable counts as unset. lookup is usually os.LookupEnv.
//
//	DYN_KUBE_DISCOVERY_MODE   pod or container; pod if unset
//	POD_NAME, POD_UID         this pod, and its namespace, POD_NAMESPACE
//	CONTAINER_NAME            this container
//	DYN_MAIN_CONTAINER_NAME   the main container; main if unset
//	DYN_DISCOVERY_LOGICAL_INSTANCE_ID   instance id, in decimal or 0x hex
//	DYN_DISCOVERY_LOGICAL_INSTANCE_KEY  text with $(VAR) for other variables, whose hash is
//	                                    the instance id if the former variable is not set
//	KUBECONFIG                files; $HOME/.kube/config if unset outside a cluster
//
// The files pod_name, pod_uid and pod_namespace in /etc/podinfo take precedence
// over the variables.
func FromEnv(lookup func(string) (string, bool)) (Options, error) {
	return fromEnv(lookup, os.DirFS(podInfo))
}

func fromEnv(lookup func(string) (string, bool), files fs.FS) (Options, error) {
	env := func(name string) string {
		value, _ := lookup(name)
		return strings.TrimSpace(value)
	}
	pod := func(name string) string {
		if content, err := fs.ReadFile(files, strings.ToLower(name)); err == nil {
			if value := strings.TrimSpace(string(content)); value != "" {
				return value
			}
		}
		return env(name)
	}
	o := Options{
		Mode:          Mode(env("DYN_KUBE_DISCOVERY_MODE")),
		PodName:       pod("POD_NAME"),
		PodUID:        pod("POD_UID"),
		Namespace:     pod("POD_NAMESPACE"),
		Container:     env("CONTAINER_NAME"),
		MainContainer: env("DYN_MAIN_CONTAINER_NAME"),
		Kubeconfig:    env("KUBECONFIG"),
	}
	switch o.Mode {
	case ModePod, ModeContainer:
	case "":
		o.Mode = ModePod
	default:
		return Options{}, fmt.Errorf("kube: DYN_KUBE_DISCOVERY_MODE %q: want %s or %s", o.Mode, ModePod, ModeContainer)
	}
	var err error
	if o.LogicalID, err = logicalID(env); err != nil {
		return Options{}, err
	}
	if home := env("HOME"); o.Kubeconfig == "" && home != "" && env("KUBERNETES_SERVICE_HOST") == "" {
		o.Kubeconfig = filepath.Join(home, ".kube", "config")
	}
	return o, nil
}

// withDefaults returns the options as they are used, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.Mode == "" {
		o.Mode = ModePod
	}
	if o.Mode != ModePod && o.Mode != ModeContainer {
		return o, fmt.Errorf("mode %q: want %s or %s", o.Mode, ModePod, ModeContainer)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// InstanceID returns the id that Dynamo gives this worker: LogicalID if there is
// one, otherwise HashPodName of the name of its object, or zero without a pod
// name.
func (o Options) InstanceID() uint64 {
	if o.LogicalID != 0 {
		return o.LogicalID
	}
	if o.PodName == "" {
		return 0
	}
	return HashPodName(o.objectName())
}

// objectName returns the name of this worker's object.
func (o Options) objectName() string {
	if o.Mode != ModeContainer {
		return o.PodName
	}
	return containerObject(o.PodName, o.Container, o.MainContainer)
}

// containerObject returns the name of a container's object. That of the main
// container is the name of the pod, so that the modes see each other's.
func containerObject(pod, container, main string) string {
	if main == "" {
		main = defaultMain
	}
	if container == main {
		return pod
	}
	return pod + "-" + container
}

// canRegister returns an error that names what is missing for registering.
func (o Options) canRegister() error {
	switch {
	case o.PodName == "" || o.PodUID == "":
		return fmt.Errorf("pod name %q, UID %q: want both of the pod that registers (POD_NAME and POD_UID)", o.PodName, o.PodUID)
	case o.Mode == ModeContainer && o.Container == "":
		return errors.New("the container name is empty: want that of the container that registers (CONTAINER_NAME)")
	}
	return nil
}

// connection returns the connection to the API server, and the namespace.
func (o Options) connection() (*rest.Config, string, error) {
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(o.Kubeconfig)}
	kubeconfig := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	config, namespace := o.Config, o.Namespace
	var err error
	switch {
	case config != nil:
		config = rest.CopyConfig(config)
	case o.Kubeconfig != "":
		config, err = kubeconfig.ClientConfig()
		// The text of this error suggests a variable that is not read here.
		if clientcmd.IsEmptyConfig(err) {
			err = errors.New("no such file, or an empty one: want a file that KUBECONFIG names, or to run in a pod")
		}
		if err != nil {
			err = fmt.Errorf("kubeconfig %s: %w", o.Kubeconfig, err)
		}
	default:
		config, err = rest.InClusterConfig()
	}
	if err == nil && namespace == "" && o.Config == nil {
		namespace, _, err = kubeconfig.Namespace()
	}
	if err != nil {
		return nil, "", err
	}
	if namespace == "" {
		namespace = "default"
	}
	return config, namespace, nil
}
