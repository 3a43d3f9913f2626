{{/* Labels of everything in the release; the argument is {root, component}. */}}
{{- define "rhizon.labels" -}}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rhizon
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "rhizon.selector" . }}
{{- end }}

{{/* Labels that never change, for selectors. */}}
{{- define "rhizon.selector" -}}
app.kubernetes.io/name: {{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "rhizon.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Names are fixed: the operator finds its broker by them, and one installation serves a cluster. */}}
{{- define "rhizon.natsUrl" -}}
{{- if .Values.nats.enabled -}}
tls://rhizon-nats.{{ .Release.Namespace }}.svc:4222
{{- else -}}
{{ .Values.nats.external.url }}
{{- end -}}
{{- end }}

{{- define "rhizon.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "rhizon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Environment of the operator, and of its check. */}}
{{- define "rhizon.operatorEnv" -}}
- name: RHIZON_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: RHIZON_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: RHIZON_NATS_URL
  value: {{ include "rhizon.natsUrl" . | quote }}
{{- if .Values.nats.enabled }}
- name: RHIZON_NATS_SERVICE
  value: rhizon-nats
{{- end }}
- name: RHIZON_RUNTIME_IMAGE
  value: {{ include "rhizon.image" (dict "root" . "image" .Values.runtime.image) | quote }}
- name: RHIZON_RUNTIME_PULL_POLICY
  value: {{ .Values.runtime.image.pullPolicy }}
{{- with .Values.telemetry.otlpEndpoint }}
- name: RHIZON_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
- name: RUST_LOG
  value: {{ .Values.operator.logLevel | quote }}
{{- end }}

{{/* What JetStream may store: the volume without a tenth for accounts and the file system's own. */}}
{{- define "rhizon.natsFileStore" -}}
{{- $size := .Values.nats.storage.size -}}
{{- $number := regexFind "^[0-9]+" $size | int64 -}}
{{- $unit := regexFind "[A-Za-z]+$" $size -}}
{{- $mega := dict "Mi" 1 "Gi" 1024 "Ti" 1048576 -}}
{{- div (mul $number (get $mega $unit) 9) 10 -}}MB
{{- end }}

{{/* The broker's configuration. */}}
{{- define "rhizon.natsConf" -}}
listen: 0.0.0.0:4222
server_name: $POD_NAME
# For the kubelet, which a NetworkPolicy lets through and others not.
http: 0.0.0.0:8222
max_payload: 8MB
# A user's credentials are one line, which grows with the types and shards of its agent.
max_control_line: 128KB
# Whom to trust: written by the operator.
include ./server/operator.conf
tls {
  cert_file: /etc/nats/server/tls.crt
  key_file: /etc/nats/server/tls.key
}
jetstream {
  store_dir: /data/jetstream
  # The default acknowledges what is not on disk yet.
  sync_interval: always
  max_memory_store: 64MB
  max_file_store: {{ include "rhizon.natsFileStore" . }}
}
resolver {
  type: full
  dir: /data/accounts
  allow_delete: true
  interval: "2m"
  # More accounts than this are refused.
  limit: 100000
}
{{- end }}
