// Package file keeps registrations as files of one machine, in the directories,
// under the names and with the contents that NVIDIA Dynamo uses. Workers of
// Dynamo and of this package therefore find each other without a server.
//
//	options, err := file.FromEnv(os.LookupEnv) // DYN_FILE_KV, TMPDIR
//	store, err := file.New(options)
//	client := discovery.NewClient(store, discovery.Options{})
//	defer client.Shutdown(ctx) // removes the files of this client
//
// # How a lease works
//
// A registration is the file {root}/{bucket}/{key}, with its key
// percent-encoded (discovery.DynamoKey). Its lease is its modification time:
// the owner touches the file every third of the TTL, and every process that has
// registered something removes files older than the TTL in the same bucket. A
// process that only lists and watches removes nothing. docs/protocol.md lists the
// rules that all of them follow.
//
// # Guarantees
//
// The registrations of an owner that dies are Removed within the TTL + 1 s, those
// that it unregisters at once. The TTL is that of the store which watches, since
// a file does not have that of its owner; or that of another process which has
// registered something and removes the file before: 10 s for those of Dynamo. A file that another process removes counts
// as unregistered unless it was older than the TTL; if its owner still runs, it
// registers again within a third of the TTL and logs a warning. A file that
// another process replaces or overwrites has been taken over: its former owner
// leaves it alone and its lease ends with discovery.ErrTakenOver. If the files can
// be neither touched nor written for half a TTL, because permissions are missing or
// something else is in the place of a directory, the leases end with that reason.
//
// After the machine was suspended, this process was stopped or the clock was
// set, the ages of files prove nothing: for one TTL expired files are not
// removed, and watches hold their removals for as long.
//
// All processes that share a root must run on one machine, or use a file system
// whose locks work across machines. The package supports Linux and macOS.
package file
