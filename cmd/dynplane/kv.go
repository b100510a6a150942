package main

import "github.com/spf13/cobra"

func newKVCommand(a *app) *cobra.Command {
	kv := &cobra.Command{
		Use:   "kv",
		Short: "Show the KV caches of workers, or serve one",
		Example: `  dynplane kv ls dynamo/backend/generate
  dynplane kv dump dynamo/backend/generate/2a`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	kv.AddCommand(newKVListCommand(a), newKVWatchCommand(a), newKVDumpCommand(a), newKVServeCommand(a))
	return kv
}
