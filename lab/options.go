package lab

import (
	"os"
	"path/filepath"
	"sync"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/lab/internal/podnode"
	"lifeboat.dev/lifeboat/lab/internal/state"
)

// complete checks the options and fills in what was left out.
func (o Options) complete() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if !siteName.MatchString(o.Name) {
		return o, dr.Errorf(dr.ClassUsage, nil, "Use lower-case letters, digits and hyphens, at most 22, a letter first.", "%q is no name for a lab", o.Name)
	}
	if o.Dir == "" {
		dir, err := DefaultDir(o.Name)
		if err != nil {
			return o, err
		}
		o.Dir = dir
	}
	if o.Nodes == "" {
		o.Nodes = Processes
	}
	if o.Nodes != Processes && o.Nodes != Pods {
		return o, dr.Errorf(dr.ClassUsage, nil, "Choose processes or pods.", "%q is no kind of node", string(o.Nodes))
	}
	if len(o.Sites) == 0 {
		o.Sites = []string{"east", "west"}
	}
	if err := checkSites(o.Sites); err != nil {
		return o, err
	}
	if o.Nodes == Pods {
		if err := podnode.Preflight(); err != nil {
			return o, err
		}
	}
	if err := o.findBinaries(); err != nil {
		return o, err
	}
	o.Progress = oneAtATime(o.Progress)
	return o, nil
}

// findBinaries looks for each program beside the running one, where `make build` puts them all.
func (o *Options) findBinaries() error {
	self, err := os.Executable()
	if err != nil {
		return dr.Errorf(dr.ClassInternal, err, "", "cannot find the running program")
	}
	dir := filepath.Dir(self)
	for _, b := range []struct {
		path   *string
		name   string
		needed bool
	}{
		{&o.SelfBinary, "lifeboat-lab", true},
		{&o.KubeBinary, "lab-kube", true},
		{&o.LifeboatBinary, "lifeboat", o.Nodes == Pods},
		{&o.ShopBinary, "shop", o.Nodes == Pods},
		{&o.PauseBinary, "pause", o.Nodes == Pods},
	} {
		asked := *b.path != ""
		if !asked {
			*b.path = filepath.Join(dir, b.name)
		}
		abs, err := filepath.Abs(*b.path)
		if err == nil {
			_, err = os.Stat(abs)
		}
		switch {
		case err == nil:
			*b.path = abs
		case asked || b.needed:
			return dr.Errorf(dr.ClassUsage, err, "Build all programs with `make build`, or name this one's place.", "cannot find the program %s", b.name)
		default:
			*b.path = ""
		}
	}
	return nil
}

func (o Options) binaries() state.Binaries {
	return state.Binaries{Self: o.SelfBinary, Kube: o.KubeBinary, Lifeboat: o.LifeboatBinary, Shop: o.ShopBinary, Pause: o.PauseBinary}
}

func oneAtATime(f func(string)) func(string) {
	if f == nil {
		return func(string) {}
	}
	var mu sync.Mutex
	return func(line string) {
		mu.Lock()
		defer mu.Unlock()
		f(line)
	}
}
