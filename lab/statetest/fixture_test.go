package statetest

// classes are the storage of each site; their names differ.
const (
	classEast = `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: premium-east}, provisioner: dir.example}`
	classWest = `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: standard-west}, provisioner: dir.example}`
)

// application is a namespace with one of most things.
const application = `{apiVersion: v1, kind: Namespace, metadata: {name: @NS@, annotations: {openshift.io/sa.scc.uid-range: 1000680000/10000}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: @NS@}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: @NS@}}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: @NS@-high}, value: 1000}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: discounts.@NS@.example.com}, spec: {group: @NS@.example.com, scope: Namespaced,
  names: {kind: Discount, listKind: DiscountList, plural: discounts, singular: discount}, versions: [{name: v1, served: true, storage: true, subresources: {status: {}},
  schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {percent: {type: integer}}},
    status: {type: object, properties: {phase: {type: string}, observedGeneration: {type: integer}}}}}}}]}}
---
{apiVersion: @NS@.example.com/v1, kind: Discount, metadata: {name: spring, namespace: @NS@, finalizers: [discounts.example.com/undo]}, spec: {percent: 10}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: web, namespace: @NS@}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: web, namespace: @NS@}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: web}, subjects: [{kind: ServiceAccount, name: web, namespace: @NS@}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "@NS@:nodes"}, rules: [{apiGroups: [""], resources: [nodes], verbs: [get]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: "@NS@:nodes"}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "@NS@:nodes"}, subjects: [{kind: ServiceAccount, name: web, namespace: @NS@}]}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: web, namespace: @NS@}, data: {title: The corner shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: @NS@}, stringData: {key: aardvark}}
---
{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: robot, namespace: @NS@, annotations: {kubernetes.io/service-account.name: web}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: @NS@}, spec: {accessModes: [ReadWriteOnce], storageClassName: premium-east, resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: @NS@}, spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: @NS@}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: db, port: 5432}]}}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: limits, namespace: @NS@}, spec: {limits: [{type: Container, default: {memory: 64Mi}}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: @NS@}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
  spec: {serviceAccountName: web, priorityClassName: @NS@-high, containers: [{name: web, image: "registry.east.test/web:1", env: [{name: KEY, valueFrom: {secretKeyRef: {name: key, key: key}}}]}],
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: twice, namespace: @NS@}, spec: {replicas: 1, selector: {matchLabels: {app: twice}}, template: {metadata: {labels: {app: twice}},
  spec: {containers: [{name: a, image: "docker.io/a:1", env: [{name: SAME, value: "1"}, {name: SAME, value: "2"}]}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: @NS@}, spec: {serviceName: db, replicas: 1, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}},
  spec: {containers: [{name: db, image: "registry.east.test/db:1"}]}}, volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], storageClassName: premium-east, resources: {requests: {storage: 1Gi}}}}]}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: web, namespace: @NS@}, spec: {minReplicas: 2, maxReplicas: 9, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, namespace: @NS@}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: j, image: "registry.east.test/web:1"}]}}}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: finished, namespace: @NS@}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: j, image: "registry.east.test/web:1"}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: running, namespace: @NS@}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: j, image: "registry.east.test/web:1"}]}}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: @NS@}, spec: {rules: [{host: shop.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: @NS@-hook}, webhooks: [{name: hook.example.com, sideEffects: None, admissionReviewVersions: [v1],
  clientConfig: {service: {namespace: @NS@, name: web}}, rules: [{apiGroups: [""], apiVersions: [v1], operations: [UPDATE], resources: [podtemplates]}]}]}
`
