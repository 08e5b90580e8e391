package procnode

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// launch is what the launcher does, in namespaces of its own, before it becomes the program.
type launch struct {
	Argv     []string `json:"argv"`
	Dir      string   `json:"dir,omitempty"`
	Hostname string   `json:"hostname,omitempty"`
	Mounts   []mount  `json:"mounts,omitempty"`
	Stage    string   `json:"stage"` // an empty directory of this machine, where a new root may be put together
	User     *user    `json:"user,omitempty"`
	// Probe asks only whether all this is permitted; nothing is run.
	Probe bool `json:"probe,omitempty"`
}

// user is who a program runs as.
type user struct {
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups,omitempty"`
}

// The launcher's extra files: its orders, and where a failure is reported. The second closes when
// the program has taken the launcher's place.
const (
	ordersFD = 3
	faultsFD = 4
)

// ExecMain is the launcher: the agent starts its own program again in new namespaces to reach it. It
// returns only on failure (or when it was merely asked to try), with the exit code to end with. args
// are those after the subcommand; there are none.
func ExecMain(args []string) int {
	faults := os.NewFile(faultsFD, "faults")
	unix.CloseOnExec(faultsFD)
	if err := runLauncher(args); err != nil {
		fmt.Fprint(faults, err)
		return 128
	}
	return 0
}

func runLauncher(args []string) error {
	runtime.LockOSThread() // groups and ambient capabilities are a thread's own, and this one becomes the program
	if len(args) != 0 {
		return fmt.Errorf("the launcher takes no arguments, got %q", args)
	}
	orders := os.NewFile(ordersFD, "orders")
	var l launch
	if err := json.NewDecoder(orders).Decode(&l); err != nil {
		return fmt.Errorf("the launcher is started by the node agent only: %w", err)
	}
	_ = orders.Close() // read to its end
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if l.Hostname != "" {
		if err := unix.Sethostname([]byte(l.Hostname)); err != nil {
			return fmt.Errorf("setting the host name: %w", err)
		}
	}
	if err := arrange(l.Mounts, l.Stage); err != nil {
		return err
	}
	if l.Probe {
		return nil
	}
	if err := become(l.User); err != nil {
		return err
	}
	if l.Dir != "" {
		if err := os.Chdir(l.Dir); err != nil {
			return fmt.Errorf("working directory: %w", err)
		}
	}
	if err := unix.Exec(l.Argv[0], l.Argv, os.Environ()); err != nil {
		return fmt.Errorf("exec %s: %w", l.Argv[0], err)
	}
	return nil
}

// become gives up what the launcher needed and takes the program's user.
func become(u *user) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	if u == nil {
		return nil
	}
	if err := unix.Setgroups(u.Groups); err != nil {
		return fmt.Errorf("setting groups: %w", err)
	}
	if err := unix.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("becoming group %d: %w", u.GID, err)
	}
	if err := unix.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("becoming user %d: %w", u.UID, err)
	}
	return nil
}
