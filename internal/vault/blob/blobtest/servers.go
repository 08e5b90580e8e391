package blobtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Server is a real object storage, run as a process for a test.
type Server struct {
	Endpoint string // http://127.0.0.1:port
	// CredentialsFile opens it.
	CredentialsFile string
	// At is a location of a bucket or container in it; a query follows.
	At func(bucket, prefix string) string
}

// Credentials of the servers, which reach no farther than this machine.
const (
	S3Access = "lifeboat"
	S3Secret = "lifeboat-secret"
	// AzureAccount and AzureKey are those that the emulator documents.
	AzureAccount = "devstoreaccount1"
	AzureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// Tool returns the path of a program that scripts/setup.sh installs. Without it the test is skipped, or
// fails where LIFEBOAT_CI is set.
func Tool(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("LIFEBOAT_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "lifeboat", "tools")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("LIFEBOAT_CI") != "" {
			t.Fatalf("%v: run scripts/setup.sh", err)
		}
		t.Skipf("%v: run scripts/setup.sh", err)
	}
	return path
}

// S3 starts versitygw on a directory, each of whose directories is a bucket; flags are those of its posix
// backend.
func S3(t testing.TB, buckets []string, flags ...string) *Server {
	t.Helper()
	program := Tool(t, "versitygw-1.8.0/versitygw")
	root := filepath.Join(t.TempDir(), "buckets")
	for _, b := range append(buckets, "") {
		if err := os.MkdirAll(filepath.Join(root, b), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	address := freePort(t)
	args := append([]string{"--access", S3Access, "--secret", S3Secret, "--port", address, "--quiet", "posix"}, flags...)
	start(t, exec.Command(program, append(args, root)...), address)
	file := filepath.Join(t.TempDir(), "s3")
	write(t, file, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", S3Access, S3Secret))
	endpoint := "http://" + address
	return &Server{Endpoint: endpoint, CredentialsFile: file, At: func(bucket, prefix string) string {
		return S3Location(endpoint, bucket, prefix)
	}}
}

// S3Location is a location at an endpoint.
func S3Location(endpoint, bucket, prefix string) string {
	return strings.TrimSuffix("s3://"+bucket+"/"+prefix, "/") + "?endpoint=" + endpoint
}

// Azure starts azurite, which keeps everything in memory. Its containers are made by the test.
func Azure(t testing.TB) *Server {
	t.Helper()
	script := Tool(t, "azurite-3.37.0/node_modules/azurite/dist/src/blob/main.js")
	node, err := exec.LookPath("node")
	if err != nil {
		Tool(t, "node") // says what is missing
	}
	address := freePort(t)
	host, port, _ := strings.Cut(address, ":")
	start(t, exec.Command(node, script, "--blobHost", host, "--blobPort", port, "--silent", "--skipApiVersionCheck", "--inMemoryPersistence"), address)
	file := filepath.Join(t.TempDir(), "azure")
	write(t, file, AzureKey+"\n")
	endpoint := "http://" + address
	return &Server{Endpoint: endpoint, CredentialsFile: file, At: func(bucket, prefix string) string {
		return AzureLocation(endpoint, bucket, prefix)
	}}
}

// Client speaks to a server of S3 directly.
func (s *Server) Client(t testing.TB) *minio.Client {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(S3Access, S3Secret, ""), Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// MakeBucket makes a bucket that keeps versions, and locks objects if it is told to.
func (s *Server) MakeBucket(t testing.TB, name string, locking bool) {
	t.Helper()
	c := s.Client(t)
	if err := c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: locking}); err != nil {
		t.Fatal(err)
	}
	if err := c.EnableVersioning(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// MakeContainer makes a container in azurite.
func (s *Server) MakeContainer(t testing.TB, name string) {
	t.Helper()
	key, err := container.NewSharedKeyCredential(AzureAccount, AzureKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := container.NewClientWithSharedKeyCredential(s.Endpoint+"/"+AzureAccount+"/"+name, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// AzureLocation is a location at an endpoint.
func AzureLocation(endpoint, container, prefix string) string {
	return strings.TrimSuffix("azblob://"+AzureAccount+"/"+container+"/"+prefix, "/") + "?endpoint=" + endpoint
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePort returns an address of this machine that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a server until the test ends, and waits for it to answer.
func start(t testing.TB, c *exec.Cmd, address string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-ended
		log.Close()
	})
	const deadline = 60 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("%s ended: %v\n%s", c.Path, err, said)
		case <-ctx.Done():
			t.Fatalf("%s does not answer at %s within %v", c.Path, address, deadline)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
