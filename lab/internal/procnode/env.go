package procnode

import (
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// waiting is an error that a container's status shows as its reason for not running yet; the
// container is tried again.
type waiting struct{ reason, message string }

func (w *waiting) Error() string { return w.reason + ": " + w.message }

const (
	reasonConfig      = "CreateContainerConfigError"
	reasonImage       = "ErrImagePull"
	reasonCreating    = "ContainerCreating"
	reasonInit        = "PodInitializing"
	reasonCrashLoop   = "CrashLoopBackOff"
	reasonStartError  = "StartError"
	reasonCompleted   = "Completed"
	reasonError       = "Error"
	reasonUnknownExit = "ContainerStatusUnknown"
)

func configError(format string, args ...any) error {
	return &waiting{reason: reasonConfig, message: fmt.Sprintf(format, args...)}
}

// podFacts is what env and volumes may ask about a pod and its node.
type podFacts struct {
	pod         *corev1.Pod
	podIP       string
	hostIP      string
	apiServer   string
	allocatable corev1.ResourceList
}

// containerEnv builds a container's environment: ours, the program's, the Services', envFrom, env;
// each later one wins.
func (c *cluster) containerEnv(f podFacts, ctr *corev1.Container, prog Program, dir string) (*environment, error) {
	env := newEnvironment()
	env.set("PATH", strings.Join(append(append([]string{}, prog.Path...), defaultPath...), ":"))
	env.set("HOME", "/")
	env.set("HOSTNAME", hostname(f.pod))
	for _, kv := range os.Environ() {
		// The lab's own markers, by which it finds everything it started.
		if name, value, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "LIFEBOAT_LAB") {
			env.set(name, value)
		}
	}
	marks := map[string]string{envPod: string(f.pod.UID), envContainer: ctr.Name, envNode: dir, envAddress: f.podIP, envPodIP: f.podIP}
	for _, name := range []string{envPod, envContainer, envNode, envAddress, envPodIP} {
		env.set(name, marks[name])
	}
	for _, kv := range prog.Env {
		name, value, _ := strings.Cut(kv, "=")
		env.set(name, env.expand(value))
	}
	if err := c.serviceEnv(env, f); err != nil {
		return nil, err
	}
	for i := range ctr.EnvFrom {
		if err := c.envFrom(env, f.pod.Namespace, &ctr.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	for i := range ctr.Env {
		v := &ctr.Env[i]
		value, ok, err := c.envValue(env, f, ctr, v)
		if err != nil {
			return nil, err
		}
		if ok {
			env.set(v.Name, value)
		}
	}
	for _, name := range []string{envPod, envContainer, envNode} {
		env.set(name, marks[name]) // a pod that sets them would escape its own clean-up
	}
	return env, nil
}

var defaultPath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

func hostname(pod *corev1.Pod) string {
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

func (c *cluster) serviceEnv(env *environment, f podFacts) error {
	if f.pod.Spec.EnableServiceLinks == nil || *f.pod.Spec.EnableServiceLinks {
		services, err := c.services.Services(f.pod.Namespace).List(labels.Everything())
		if err != nil {
			return fmt.Errorf("listing services of %s: %w", f.pod.Namespace, err)
		}
		sort.Slice(services, func(i, j int) bool { return services[i].Name < services[j].Name })
		for _, s := range services {
			serviceLinks(env, s)
		}
	}
	// The API server is always given, by its own address, which answers without a Service proxy.
	host, port, err := net.SplitHostPort(f.apiServer)
	if err != nil {
		host, port = f.apiServer, "443"
	}
	env.set("KUBERNETES_SERVICE_HOST", host)
	env.set("KUBERNETES_SERVICE_PORT", port)
	env.set("KUBERNETES_SERVICE_PORT_HTTPS", port)
	return nil
}

// serviceLinks sets the variables by which a pod finds a Service that existed when it started.
func serviceLinks(env *environment, s *corev1.Service) {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return
	}
	prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	env.set(prefix+"_SERVICE_HOST", ip)
	env.set(prefix+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			env.set(prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_")), port)
		}
		proto := strings.ToLower(string(p.Protocol))
		if proto == "" {
			proto = "tcp"
		}
		url := proto + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			env.set(prefix+"_PORT", url)
		}
		link := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
		env.set(link, url)
		env.set(link+"_PROTO", proto)
		env.set(link+"_PORT", port)
		env.set(link+"_ADDR", ip)
	}
}

func (c *cluster) envFrom(env *environment, namespace string, src *corev1.EnvFromSource) error {
	data := map[string]string{}
	switch {
	case src.ConfigMapRef != nil:
		m, err := c.configMap(namespace, src.ConfigMapRef.Name, src.ConfigMapRef.Optional)
		if err != nil || m == nil {
			return err
		}
		data = m.Data
	case src.SecretRef != nil:
		s, err := c.secret(namespace, src.SecretRef.Name, src.SecretRef.Optional)
		if err != nil || s == nil {
			return err
		}
		for k, v := range s.Data {
			data[k] = string(v)
		}
	}
	keys := make([]string, 0, len(data))
	for k := range data {
		if len(validation.IsEnvVarName(src.Prefix+k)) == 0 {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		env.set(src.Prefix+k, data[k])
	}
	return nil
}

func (c *cluster) envValue(env *environment, f podFacts, ctr *corev1.Container, v *corev1.EnvVar) (string, bool, error) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return env.expand(v.Value), true, nil
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		m, err := c.configMap(f.pod.Namespace, r.Name, r.Optional)
		if err != nil || m == nil {
			return "", false, err
		}
		if value, ok := m.Data[r.Key]; ok {
			return value, true, nil
		}
		return "", false, missingKey(r.Optional, "ConfigMap", f.pod.Namespace, r.Name, r.Key)
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		s, err := c.secret(f.pod.Namespace, r.Name, r.Optional)
		if err != nil || s == nil {
			return "", false, err
		}
		if value, ok := s.Data[r.Key]; ok {
			return string(value), true, nil
		}
		return "", false, missingKey(r.Optional, "Secret", f.pod.Namespace, r.Name, r.Key)
	case from.FieldRef != nil:
		value, err := f.field(from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err := f.resourceField(ctr, from.ResourceFieldRef)
		return value, true, err
	}
	return "", false, configError("variable %s comes from a source that process nodes do not know", v.Name)
}

func missingKey(optional *bool, kind, namespace, name, key string) error {
	if optional != nil && *optional {
		return nil
	}
	return configError("couldn't find key %s in %s %s/%s", key, kind, namespace, name)
}

// field answers a downward API field path.
func (f podFacts) field(path string) (string, error) {
	p := f.pod
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return formatMap(p.Labels), nil
	case "metadata.annotations":
		return formatMap(p.Annotations), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return f.podIP, nil
	case "status.hostIP", "status.hostIPs":
		return f.hostIP, nil
	}
	if key, ok := subscript(path, "metadata.labels"); ok {
		return p.Labels[key], nil
	}
	if key, ok := subscript(path, "metadata.annotations"); ok {
		return p.Annotations[key], nil
	}
	return "", configError("field path %q is not known", path)
}

// subscript takes KEY out of base['KEY'].
func subscript(path, base string) (string, bool) {
	key, ok := strings.CutPrefix(path, base+"['")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(key, "']")
}

func formatMap(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

// resourceField answers limits.X and requests.X in units of the divisor, rounded up; a limit that
// is not set is what the node has.
func (f podFacts) resourceField(ctr *corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName != "" {
		found := findContainer(f.pod, ref.ContainerName)
		if found == nil {
			return "", configError("resourceFieldRef names container %q, which the pod has not", ref.ContainerName)
		}
		ctr = found
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var q resource.Quantity
	var ok bool
	switch kind {
	case "limits":
		if q, ok = ctr.Resources.Limits[corev1.ResourceName(name)]; !ok {
			q = f.allocatable[corev1.ResourceName(name)]
		}
	case "requests":
		q = ctr.Resources.Requests[corev1.ResourceName(name)]
	default:
		return "", configError("resource %q is not known", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	value, by := q.MilliValue(), divisor.MilliValue()
	if name != string(corev1.ResourceCPU) {
		value, by = q.Value(), divisor.Value()
	}
	if by == 0 {
		return "", configError("resource %q has divisor %s, which is too small", ref.Resource, divisor.String())
	}
	return strconv.FormatInt((value+by-1)/by, 10), nil
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// configMap returns the named ConfigMap, nil if it is missing and optional.
func (c *cluster) configMap(namespace, name string, optional *bool) (*corev1.ConfigMap, error) {
	m, err := c.configMaps.ConfigMaps(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		if optional != nil && *optional {
			return nil, nil
		}
		return nil, configError("configmap %q not found", name)
	}
	return m, err
}

// secret returns the named Secret, nil if it is missing and optional.
func (c *cluster) secret(namespace, name string, optional *bool) (*corev1.Secret, error) {
	s, err := c.secrets.Secrets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		if optional != nil && *optional {
			return nil, nil
		}
		return nil, configError("secret %q not found", name)
	}
	return s, err
}
