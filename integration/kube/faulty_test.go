package kube

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"
)

// faulty is an API server whose answers are late, or do not come.
type faulty struct {
	cluster *cluster
	delay   func() time.Duration // before and after a request; nil means none
	cut     atomic.Bool          // requests are executed but not answered
	held    atomic.Pointer[chan struct{}]
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if held := f.held.Load(); held != nil {
		select {
		case <-*held:
		case <-r.Context().Done():
			return
		}
	}
	if f.delay != nil {
		<-time.After(f.delay())
	}
	cut := f.cut.Load()
	if !cut && f.delay == nil {
		f.cluster.ServeHTTP(w, r)
		return
	}
	// A client that is gone does not stop the request.
	answer := httptest.NewRecorder()
	f.cluster.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
	if cut {
		cutOff(w, r, nil)
		return
	}
	<-time.After(f.delay())
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func (p place) serve(f *faulty) string {
	f.cluster = p.cluster
	server := httptest.NewServer(f)
	p.Cleanup(server.Close)
	return server.URL
}
