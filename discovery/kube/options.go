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

// Mode says what a worker is.
type Mode string

// The modes.
const (
	// ModePod: each pod is one worker.
	ModePod Mode = "pod"
	// ModeContainer: each container of a pod is a worker of its own.
	ModeContainer Mode = "container"
)

// defaultMain is the container that stands for its pod, in the mode of
// containers, where nothing names another one.
const defaultMain = "main"

// Options are the settings of a Store. The zero value reads the pods of the
// namespace that the connection's configuration names.
type Options struct {
	// Mode is ModePod if empty. Readers see only what registers in their mode,
	// and in both modes the pods whose main container has registered.
	Mode Mode

	// PodName and PodUID are this pod's. Registering needs both, reading
	// neither.
	PodName, PodUID string

	// Container is the name of this container; registering in ModeContainer
	// needs it. MainContainer is the one that stands for the whole pod; empty
	// is main.
	Container, MainContainer string

	// Namespace is where the pods and objects are. Empty is the one of the
	// kubeconfig's context or of this pod's service account, else default.
	Namespace string

	// Config is how to reach the API server. If nil, it is what Kubeconfig
	// says, a list of files as in KUBECONFIG; if that is empty, too, it is the
	// service account of this pod.
	Config     *rest.Config
	Kubeconfig string

	// Logger hears when the API server is lost and found; nil is silent.
	Logger *slog.Logger
}

// podInfo is where the runtime's deployments mount the names of a pod.
const podInfo = "/etc/podinfo"

// FromEnv reads DYN_KUBE_DISCOVERY_MODE (pod or container, pod if unset or
// empty), POD_NAME, POD_UID, POD_NAMESPACE, CONTAINER_NAME,
// DYN_MAIN_CONTAINER_NAME and KUBECONFIG; outside a cluster the latter is
// $HOME/.kube/config if unset. The files pod_name, pod_uid and pod_namespace in
// /etc/podinfo come before the variables. lookup is os.LookupEnv, or what a test
// wants.
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

// InstanceID returns the id under which this worker registers unless it is
// given another: the hash of the name of its object. Without a pod it is zero.
func (o Options) InstanceID() uint64 {
	if o.PodName == "" {
		return 0
	}
	return HashPodName(o.objectName())
}

// objectName is the name of this worker's object.
func (o Options) objectName() string {
	if o.Mode != ModeContainer {
		return o.PodName
	}
	return containerObject(o.PodName, o.Container, o.MainContainer)
}

// containerObject is the name of the object of a container. The main one's is
// that of the pod, so that both modes see each other's.
func containerObject(pod, container, main string) string {
	if main == "" {
		main = defaultMain
	}
	if container == main {
		return pod
	}
	return pod + "-" + container
}

// canRegister says what is missing.
func (o Options) canRegister() error {
	switch {
	case o.PodName == "" || o.PodUID == "":
		return fmt.Errorf("pod name %q, UID %q: want both of the pod that registers (POD_NAME and POD_UID)", o.PodName, o.PodUID)
	case o.Mode == ModeContainer && o.Container == "":
		return errors.New("no container name: want the one that registers (CONTAINER_NAME)")
	}
	return nil
}

// connection returns how to reach the API server, and the namespace.
func (o Options) connection() (*rest.Config, string, error) {
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(o.Kubeconfig)}
	kubeconfig := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	config, namespace := o.Config, o.Namespace
	var err error
	switch {
	case config != nil:
		config = rest.CopyConfig(config)
	case o.Kubeconfig != "":
		if config, err = kubeconfig.ClientConfig(); err != nil {
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
