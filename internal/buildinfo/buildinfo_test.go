package buildinfo

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	const revision = "9267a3d0c1c0e6a1f6f8b6a7f9d4c3b2a1908070"
	vcs := func(modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: modified}}
	}
	for _, test := range []struct {
		name string
		info debug.BuildInfo
		want Info
	}{
		{"clean checkout", debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v0.1.0"}, Settings: vcs("false")}, Info{"v0.1.0", revision, "go1.26.0"}},
		{"modified checkout", debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v0.1.0+dirty"}, Settings: vcs("true")}, Info{"v0.1.0+dirty", revision + "+dirty", "go1.26.0"}},
		{"go install of a version", debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v0.1.0"}}, Info{"v0.1.0", "unknown", "go1.26.0"}},
		{"nothing recorded", debug.BuildInfo{}, Info{"unknown", "unknown", runtime.Version()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := describe(&test.info); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestReadHasNoEmptyField(t *testing.T) {
	t.Parallel()
	if got := Read(); got.Version == "" || got.Commit == "" || got.Go != runtime.Version() {
		t.Errorf("got %+v, want no empty field and Go %s", got, runtime.Version())
	}
}

func TestDependencyThatIsNotLinked(t *testing.T) {
	t.Parallel()
	if got := Dependency("example.com/none"); got != "unknown" {
		t.Errorf("got %q, want unknown", got)
	}
}
