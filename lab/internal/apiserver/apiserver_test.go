package apiserver_test

import (
	"os"
	"testing"
	"time"

	"lifeboat.dev/lifeboat/lab/internal/apiserver"
)

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	binary, err := apiserver.Binary()
	if err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	began := time.Now()
	s, err := apiserver.Start(t.Context(), binary, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %s", time.Since(began))
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
}
