// Package natsversions holds the tests of discovery/natskv on released NATS
// servers: the oldest and the newest patch of each supported minor version, alone
// and in clusters and sites. It is a module of its own; `make natsversions` runs
// it. The tests build each server once and keep it in the user's cache. Each
// server runs in its own process, so that it can be killed and stopped.
package natsversions
