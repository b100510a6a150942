// Package buildinfo reports what a program was built from, for the version
// commands of the programs.
package buildinfo

import (
	"cmp"
	"runtime"
	"runtime/debug"
)

// unknown replaces what the build did not record: tests and builds with
// -buildvcs=false record no commit, and a module downloaded by go install
// records none either, since its version identifies the commit.
const unknown = "unknown"

// Info describes a build. No field is empty.
type Info struct {
	Version string // of the main module, such as v0.1.0
	Commit  string // revision, with the suffix "+dirty" if files were modified
	Go      string // version of the toolchain
}

// Read returns the description of the running program.
func Read() Info {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return describe(info)
}

func describe(info *debug.BuildInfo) Info {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	commit := cmp.Or(settings["vcs.revision"], unknown)
	if settings["vcs.modified"] == "true" {
		commit += "+dirty"
	}
	return Info{
		Version: cmp.Or(info.Main.Version, unknown),
		Commit:  commit,
		Go:      cmp.Or(info.GoVersion, runtime.Version()),
	}
}

// Dependency returns the version of a module that the program is linked with.
func Dependency(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == path {
				return dep.Version
			}
		}
	}
	return unknown
}
