// Package file keeps registrations as files of one machine, beside those of
// NVIDIA Dynamo's runtime: same directories, names and values, so that either
// side finds the other's workers without any server.
//
//	options, err := file.FromEnv(os.LookupEnv) // DYN_FILE_KV, TMPDIR
//	store, err := file.New(options)
//	client := discovery.NewClient(store, discovery.Options{})
//	defer client.Shutdown(ctx) // removes our files
//
// A registration is the file {root}/{bucket}/{key}, its key percent-encoded
// (discovery.DynamoKey; docs/protocol.md has the rules that all who share a
// root obey). It lives while its modification time is younger than the TTL: its
// owner touches it every third of that, and everybody removes files that are
// older.
//
// # What is promised
//
// An owner that dies is Removed within the TTL + 1 s, one that unregisters at
// once. A file removed by anybody else is taken as removed on purpose, unless it
// was older than the TTL; its owner, if it lives, registers it again within a
// third of the TTL, with a warning. A file under our name that is not the one
// that we wrote, or holds something else, has been taken over, and is left alone
// (discovery.ErrTakenOver).
//
// After this machine was suspended, this process stopped or the clock set,
// expired files are left alone for one TTL, and watches hold their removal for
// as long.
//
// All processes that share a root must share the machine too, or a file system
// whose locks work across machines. Linux and macOS only.
package file
