package agent

import (
	"os"
	"path/filepath"
	"slices"
	"sort"

	"lifeboat.dev/lifeboat/lab/internal/procnode"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// programs says which program of this machine stands for which image in mode processes. An image is
// looked up by the last element of its repository; one that is not here fails as a missing image does.
func programs(b state.Binaries) map[string]procnode.Program {
	table := map[string]procnode.Program{}
	if b.Shop != "" {
		table["shop"] = procnode.Program{Entrypoint: []string{b.Shop}}
	}
	if b.Lifeboat != "" {
		table["lifeboat"] = procnode.Program{Entrypoint: []string{b.Lifeboat}, Path: []string{filepath.Dir(b.Lifeboat)}}
	}
	if b.Pause != "" {
		table["pause"] = procnode.Program{Entrypoint: []string{b.Pause}}
	}
	if dir := newestPostgres(); dir != "" {
		table["postgres"] = procnode.Program{
			Entrypoint: []string{filepath.Join(dir, "postgres")},
			Path:       []string{dir},
			User:       "postgres",
		}
	}
	if _, err := os.Stat("/usr/bin/redis-server"); err == nil {
		table["redis"] = procnode.Program{
			Entrypoint: []string{"/usr/bin/redis-server"},
			Address:    []string{"--bind", "$(POD_IP)"},
			User:       "redis",
		}
	}
	for _, sh := range []string{"/bin/sh", "/usr/bin/sh"} {
		if _, err := os.Stat(sh); err == nil {
			table["busybox"] = procnode.Program{Entrypoint: []string{sh}}
			break
		}
	}
	return table
}

// newestPostgres is the directory of Debian's newest PostgreSQL programs, empty where none is installed.
func newestPostgres() string {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(dirs) == 0 {
		return ""
	}
	slices.Sort(dirs)
	return dirs[len(dirs)-1]
}
