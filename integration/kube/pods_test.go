package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
)

// podServer serves the list and the watch of pods as the API server does, as far
// as a reflector needs: labels, resource versions and their expiry. It refuses a
// listing within a watch.
type podServer struct {
	mu       sync.Mutex
	revision int
	oldest   int // the oldest revision that a watch can begin with
	pods     map[string]map[string]any
	history  []podEvent
	changed  chan struct{} // closed at a change
}

type podEvent struct {
	revision  int
	Type      string         `json:"type"`
	Object    map[string]any `json:"object"`
	namespace string
}

func newPodServer() *podServer {
	return &podServer{revision: 1, pods: map[string]map[string]any{}, changed: make(chan struct{})}
}

// put creates or changes a pod.
func (s *podServer) put(namespace, name, uid string, ready map[string]bool, annotations map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var statuses []any
	for container, ok := range ready {
		statuses = append(statuses, map[string]any{"name": container, "ready": ok})
	}
	s.revision++
	pod := map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{
			"name": name, "namespace": namespace, "uid": uid, "resourceVersion": strconv.Itoa(s.revision),
			"labels": map[string]any{
				"nvidia.com/dynamo-discovery-backend": "kubernetes", "nvidia.com/dynamo-discovery-enabled": "true",
			},
			"annotations": annotations,
		},
		"status": map[string]any{"containerStatuses": statuses},
	}
	kind := "ADDED"
	if s.pods[namespace+"/"+name] != nil {
		kind = "MODIFIED"
	}
	s.pods[namespace+"/"+name] = pod
	s.happened(podEvent{s.revision, kind, pod, namespace})
}

// remove deletes a pod.
func (s *podServer) remove(namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	pod := s.pods[namespace+"/"+name]
	delete(s.pods, namespace+"/"+name)
	s.happened(podEvent{s.revision, "DELETED", pod, namespace})
}

// expire removes the history, which ends the watches.
func (s *podServer) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.oldest = s.revision
	s.history = nil
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *podServer) happened(e podEvent) {
	s.history = append(s.history, e)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *podServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	namespace := strings.Split(r.URL.Path, "/")[4]
	query := r.URL.Query()
	selector, err := labels.Parse(query.Get("labelSelector"))
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, "BadRequest", err.Error())
	case query.Get("sendInitialEvents") != "":
		fail(w, http.StatusUnprocessableEntity, "Invalid", "sendInitialEvents is not served here")
	case query.Get("watch") != "":
		s.watch(w, r, namespace, selector)
	default:
		s.list(w, namespace, selector)
	}
}

func fail(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(status(code, reason, message))
}

func status(code int, reason, message string) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
	}
}

func (s *podServer) list(w http.ResponseWriter, namespace string, selector labels.Selector) {
	s.mu.Lock()
	items := []any{}
	for _, pod := range s.pods {
		if matches(pod, namespace, selector) {
			items = append(items, pod)
		}
	}
	list := map[string]any{
		"apiVersion": "v1", "kind": "PodList", "items": items,
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.revision)},
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

func (s *podServer) watch(w http.ResponseWriter, r *http.Request, namespace string, selector labels.Selector) {
	since, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil {
		fail(w, http.StatusBadRequest, "BadRequest", err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		events, changed, expired := s.since(since)
		if expired {
			_ = json.NewEncoder(w).Encode(map[string]any{
				"type": "ERROR", "object": status(http.StatusGone, "Expired", fmt.Sprintf("too old resource version: %d", since)),
			})
			return
		}
		for _, e := range events {
			since = e.revision
			if matches(e.Object, namespace, selector) {
				_ = json.NewEncoder(w).Encode(e)
			}
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *podServer) since(revision int) (events []podEvent, changed <-chan struct{}, expired bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.history {
		if e.revision > revision {
			events = append(events, e)
		}
	}
	return events, s.changed, revision < s.oldest
}

func matches(pod map[string]any, namespace string, selector labels.Selector) bool {
	meta := pod["metadata"].(map[string]any)
	set := labels.Set{}
	for name, value := range meta["labels"].(map[string]any) {
		set[name] = value.(string)
	}
	return meta["namespace"] == namespace && selector.Matches(set)
}
