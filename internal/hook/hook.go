// Package hook runs what a user declares to happen around a restore: a command in a pod, or a Job.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"lifeboat.dev/lifeboat/internal/dr"
	"lifeboat.dev/lifeboat/internal/kube"
)

// Runner runs hooks at one site.
type Runner struct {
	Client      *kube.Client
	Application string
	Run         string // id of the run; a Job is named after it, so that it is found again
	// Namespace says where a captured namespace's objects went; nil: nowhere else.
	Namespace func(captured string) string
	// Image says what an image is called at the target; nil: the same.
	Image    func(captured string) string
	Progress func(text string)
}

// tailSize is how much of what a hook said is kept of one that failed.
const tailSize = 1024

// errUnknown: what a hook that was cut off has done is not known.
var errUnknown = errors.New("an earlier process began it and did not live to say how it ended")

// Do runs a hook to its end, within its time-out. cutOff says that an earlier process had begun it: a Job is
// then looked up, and a command whose end nobody saw is run again only if the hook is repeatable.
func (r Runner) Do(ctx context.Context, h dr.Hook, cutOff bool) (dr.HookOutput, error) {
	var out dr.HookOutput
	var err error
	switch {
	case h.Job != nil:
		out, err = r.job(ctx, h)
	case h.Exec != nil && cutOff && !h.Repeatable:
		return out, dr.Errorf(dr.ClassBlocked, errUnknown, "Look whether it did its work; going on runs it once more. A hook that may run twice is declared repeatable.",
			"hook %s may have run already", h.Name)
	case h.Exec != nil:
		out, err = r.exec(ctx, h)
	default:
		return out, dr.Errorf(dr.ClassUsage, nil, "Add exec: or job: to it in the fleet file.", "hook %s does nothing", h.Name)
	}
	if err != nil && ctx.Err() == nil && dr.ClassOf(err) == dr.ClassInternal {
		err = dr.Errorf(dr.ClassIncomplete, err, "", "hook %s failed", h.Name)
	}
	return out, err
}

func (r Runner) namespace(captured string) string {
	if r.Namespace == nil {
		return captured
	}
	return r.Namespace(captured)
}

func (r Runner) say(format string, args ...any) {
	if r.Progress != nil {
		r.Progress(fmt.Sprintf(format, args...))
	}
}

// exec runs the command in the first ready pod.
func (r Runner) exec(ctx context.Context, h dr.Hook) (dr.HookOutput, error) {
	pod, err := r.pod(ctx, h.Exec)
	if err != nil {
		return dr.HookOutput{}, err
	}
	container := h.Exec.Container
	if container == "" {
		container = pod.Spec.Containers[0].Name
	}
	out := dr.HookOutput{Ran: "pod " + pod.Namespace + "/" + pod.Name}
	r.say("running in %s", out.Ran)
	limited, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	var said tail
	err = r.Client.Exec(limited, pod.Namespace, pod.Name, container, h.Exec.Command, nil, &said, &said)
	if err == nil {
		return out, nil
	}
	out.Tail = said.String()
	if limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("not done within %s", h.Timeout)
	}
	if status, ended := kube.ExitStatus(err); ended {
		err = fmt.Errorf("it ended with status %d", status)
	}
	// Whatever the connection says, the command may have run: it is not simply tried again.
	return out, dr.Errorf(dr.ClassIncomplete, fmt.Errorf("%s: %w%s", out.Ran, err, lastWords(out.Tail)), "", "hook %s failed", h.Name)
}

// pod is the first ready one, by name.
func (r Runner) pod(ctx context.Context, e *dr.ExecHook) (*corev1.Pod, error) {
	ns := r.namespace(e.Namespace)
	list, err := r.Client.Typed.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: e.Pods})
	if err != nil {
		return nil, r.failed(err, "list the pods of %s", ns)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for i := range list.Items {
		p := &list.Items[i]
		if kube.PodReady(p) && len(p.Spec.Containers) > 0 {
			return p, nil
		}
	}
	return nil, dr.Errorf(dr.ClassIncomplete, nil, "Correct exec.pods of the hook in the fleet file, or let its failure only warn.",
		"no pod with %s is ready in namespace %s (of %d)", e.Pods, ns, len(list.Items))
}

// failed gives an error of the API server its class: what did not answer is tried again.
func (r Runner) failed(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return dr.Errorf(dr.ClassDenied, err, "Give the account of the site's kubeconfig this right.", "site %s: %s", r.Client.Site, what)
	case apierrors.ReasonForError(err) != metav1.StatusReasonUnknown && !apierrors.IsServerTimeout(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsServiceUnavailable(err):
		return fmt.Errorf("site %s: %s: %w", r.Client.Site, what, err)
	}
	return dr.Errorf(dr.ClassUnreachable, err, "", "site %s: %s", r.Client.Site, what)
}

func lastWords(said string) string {
	if said == "" {
		return ""
	}
	return "; it said: " + said
}

// tail keeps the end of what both streams of a command say.
type tail struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text.Write(p)
	if over := t.text.Len() - tailSize; over > 0 {
		t.text.Next(over)
	}
	return len(p), nil
}

// String implements fmt.Stringer.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(t.text.String(), ""))
}
