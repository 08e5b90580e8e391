package podnode

import (
	"errors"
	"strings"
	"testing"

	"lifeboat.dev/lifeboat/internal/dr"
)

func TestMissingProgramsAreNamedWithTheirRemedy(t *testing.T) {
	t.Parallel()
	gone := errors.New("not here")
	lacks := func(names ...string) func(string) (string, error) {
		return func(name string) (string, error) {
			for _, n := range names {
				if n == name {
					return "", gone
				}
			}
			return "/usr/bin/" + name, nil
		}
	}
	plugins := func() (string, error) { return "/usr/lib/cni", nil }
	noPlugins := func() (string, error) { return "", gone }
	for _, c := range []struct {
		find    func(string) (string, error)
		plugins func() (string, error)
		next    string
		names   []string
	}{
		{lacks(), plugins, "", nil},
		{lacks("runc"), plugins, "apt-get install -y runc.", []string{"runc"}},
		{lacks("containerd", "containerd-shim-runc-v2", "nft"), plugins, "apt-get install -y containerd nftables.", []string{"containerd", "containerd-shim-runc-v2", "nft"}},
		{lacks(), noPlugins, "apt-get install -y containernetworking-plugins.", []string{"host-local"}},
	} {
		err := missingPrograms(c.find, c.plugins)
		if c.next == "" {
			if err != nil {
				t.Errorf("nothing is missing, and yet: %v", err)
			}
			continue
		}
		var e *dr.Error
		if !errors.As(err, &e) || !strings.HasSuffix(e.Next, c.next) {
			t.Errorf("error %#v, want the remedy %q", err, c.next)
			continue
		}
		for _, n := range c.names {
			if !strings.Contains(e.Error(), n) {
				t.Errorf("%q does not name %s", e, n)
			}
		}
	}
}
