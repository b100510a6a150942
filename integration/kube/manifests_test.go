package kube

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// manifests are the objects of examples/kubernetes.
type manifests []runtime.Object

// render renders the example, and decodes it with the types of the API: a field
// that they do not have, or have twice, is an error.
func render(t *testing.T) manifests {
	t.Helper()
	example := filepath.Join("..", "..", "examples", "kubernetes")
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), example)
	if err != nil {
		t.Fatal(err)
	}
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	strict := serializer.NewCodecFactory(types, serializer.EnableStrict).UniversalDeserializer()
	var out manifests
	for _, resource := range rendered.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := strict.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		out = append(out, obj)
	}
	return out
}

// of returns the objects of a type by name.
func of[T metav1.Object](m manifests) map[string]T {
	out := map[string]T{}
	for _, obj := range m {
		if typed, ok := obj.(T); ok {
			out[typed.GetName()] = typed
		}
	}
	return out
}

// only returns the object of a type of which there is one.
func only[T metav1.Object](t *testing.T, m manifests) T {
	t.Helper()
	var out T
	all := of[T](m)
	if len(all) != 1 {
		t.Fatalf("%d objects of type %T, want 1", len(all), out)
	}
	for _, out = range all {
	}
	return out
}

// workload is an object that makes pods.
type workload struct {
	metav1.Object
	selector *metav1.LabelSelector
	template corev1.PodTemplateSpec
	service  string // gives the pods of a StatefulSet their names
}

func (m manifests) workloads() map[string]workload {
	out := map[string]workload{}
	for name, d := range of[*appsv1.Deployment](m) {
		out[name] = workload{d, d.Spec.Selector, d.Spec.Template, ""}
	}
	for name, s := range of[*appsv1.StatefulSet](m) {
		out[name] = workload{s, s.Spec.Selector, s.Spec.Template, s.Spec.ServiceName}
	}
	return out
}

// discoverable reports whether the pods register in discovery.
func (w workload) discoverable() bool { return w.template.Spec.ServiceAccountName == "dynplane-worker" }

func TestManifestsNamespace(t *testing.T) {
	t.Parallel()
	m := render(t)
	namespace := only[*corev1.Namespace](t, m).Name
	for _, obj := range m {
		o, ok := obj.(metav1.Object)
		if !ok {
			t.Fatalf("%T has no name", obj)
		}
		switch obj.(type) {
		case *corev1.Namespace, *apiextensionsv1.CustomResourceDefinition:
			continue
		}
		if o.GetNamespace() != namespace {
			t.Errorf("%T %s is in namespace %q, want %s", obj, o.GetName(), o.GetNamespace(), namespace)
		}
	}
}

func TestManifestsPodsAreRestricted(t *testing.T) {
	t.Parallel()
	m := render(t)
	level := only[*corev1.Namespace](t, m).Labels["pod-security.kubernetes.io/enforce"]
	if level != string(api.LevelRestricted) {
		t.Errorf("the namespace enforces %q, want %s", level, api.LevelRestricted)
	}
	judge, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	standard := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for name, w := range m.workloads() {
		verdict := policy.AggregateCheckResults(judge.EvaluatePod(standard, &w.template.ObjectMeta, &w.template.Spec))
		if !verdict.Allowed {
			t.Errorf("%s: %s", name, verdict.ForbiddenDetail())
		}
	}
}

func TestManifestsContainers(t *testing.T) {
	t.Parallel()
	for name, w := range render(t).workloads() {
		for _, c := range w.template.Spec.Containers {
			name := name + "/" + c.Name
			_, tag, _ := strings.Cut(c.Image[strings.LastIndex(c.Image, "/")+1:], ":")
			if tag == "" || strings.Contains(tag, "latest") {
				t.Errorf("%s: image %s, want a version", name, c.Image)
			}
			if c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
				t.Errorf("%s can write to its root file system", name)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: resources %v, want requests of CPU and memory, and a limit of memory", name, c.Resources)
			}
			checkProbes(t, name, c)
		}
	}
}

// checkProbes requires probes of existing targets: ports of the container, and
// programs of its image.
func checkProbes(t *testing.T, name string, c corev1.Container) {
	t.Helper()
	ports := map[string]bool{}
	for _, port := range c.Ports {
		ports[port.Name] = true
	}
	if c.ReadinessProbe == nil || c.LivenessProbe == nil {
		t.Errorf("%s: readiness probe %v, liveness probe %v, want both", name, c.ReadinessProbe, c.LivenessProbe)
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		switch {
		case probe == nil:
		case probe.TCPSocket != nil && ports[probe.TCPSocket.Port.StrVal]:
		case probe.HTTPGet != nil && ports[probe.HTTPGet.Port.StrVal] && c.Name == "nats": // see TestManifestsNATS
		case probe.Exec != nil && probe.Exec.Command[0] == "/usr/local/bin/dynplane":
		default:
			t.Errorf("%s: probe %v has no target", name, probe)
		}
	}
}

func TestManifestsReferences(t *testing.T) {
	t.Parallel()
	m := render(t)
	accounts, configs, services := of[*corev1.ServiceAccount](m), of[*corev1.ConfigMap](m), of[*corev1.Service](m)
	want := func(ok bool, format string, args ...any) {
		t.Helper()
		if !ok {
			t.Errorf(format, args...)
		}
	}
	for name, w := range m.workloads() {
		pod := w.template.Spec
		want(selects(t, w.selector, w), "%s: its selector does not match its own pods", name)
		account := pod.ServiceAccountName
		want(accounts[account] != nil || account == "" && pod.AutomountServiceAccountToken != nil && !*pod.AutomountServiceAccountToken,
			"%s: service account %q is not here", name, account)
		want(w.service == "" || services[w.service] != nil && services[w.service].Spec.ClusterIP == corev1.ClusterIPNone,
			"%s: no headless service %q", name, w.service)
		for _, v := range pod.Volumes {
			want(v.ConfigMap == nil || configs[v.ConfigMap.Name] != nil, "%s: config map %v is not here", name, v.ConfigMap)
		}
		for _, c := range pod.Containers {
			for _, from := range c.EnvFrom {
				want(from.ConfigMapRef != nil && configs[from.ConfigMapRef.Name] != nil, "%s: config map %v is not here", name, from)
			}
		}
	}
	for name, s := range services {
		selector := &metav1.LabelSelector{MatchLabels: s.Spec.Selector}
		want(selects(t, selector, m.workloads()[name]), "service %s does not select the pods of its name", name)
	}
	for name, b := range of[*policyv1.PodDisruptionBudget](m) {
		want(selects(t, b.Spec.Selector, m.workloads()[name]), "budget %s does not select the pods of its name", name)
	}
	roles := of[*rbacv1.Role](m)
	for name, b := range of[*rbacv1.RoleBinding](m) {
		want(b.RoleRef.Kind == "Role" && roles[b.RoleRef.Name] != nil, "binding %s: role %v is not here", name, b.RoleRef)
		for _, subject := range b.Subjects {
			account := accounts[subject.Name]
			want(account != nil && account.Namespace == subject.Namespace, "binding %s: subject %v is not here", name, subject)
		}
	}
}

func selects(t *testing.T, s *metav1.LabelSelector, w workload) bool {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return !selector.Empty() && selector.Matches(labels.Set(w.template.Labels))
}

// TestManifestsBrokers: the loss of one broker must not cause the loss of both.
func TestManifestsBrokers(t *testing.T) {
	t.Parallel()
	m := render(t)
	brokers := of[*appsv1.StatefulSet](m)["zmq-broker"]
	if brokers == nil || *brokers.Spec.Replicas != 2 {
		t.Fatalf("stateful set %v, want 2 brokers", brokers)
	}
	apart := brokers.Spec.Template.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	if len(apart) != 1 || !selects(t, apart[0].PodAffinityTerm.LabelSelector, m.workloads()["zmq-broker"]) {
		t.Errorf("anti-affinity %v, want the brokers apart from each other", apart)
	}
	if budget := of[*policyv1.PodDisruptionBudget](m)["zmq-broker"]; budget == nil || budget.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("disruption budget %v, want at most one unavailable", budget)
	}
}

func TestManifestsDefinition(t *testing.T) {
	t.Parallel()
	definition := only[*apiextensionsv1.CustomResourceDefinition](t, render(t))
	types := runtime.NewScheme()
	install.Install(types)
	types.Default(definition)
	var internal apiextensions.CustomResourceDefinition
	if err := types.Convert(definition, &internal, nil); err != nil {
		t.Fatal(err)
	}
	if errs := validation.ValidateCustomResourceDefinition(t.Context(), &internal); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
}

// TestManifestsStrict: these tests fail on a typo in a manifest.
func TestManifestsStrict(t *testing.T) {
	t.Parallel()
	obj, err := yaml.Marshal(of[*corev1.Service](render(t))["worker"])
	if err != nil {
		t.Fatal(err)
	}
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	typo := bytes.Replace(obj, []byte("clusterIP:"), []byte("clusterIp:"), 1)
	if _, _, err := strict.Decode(typo, nil, nil); err == nil {
		t.Errorf("decoded\n%s", typo)
	}
}
