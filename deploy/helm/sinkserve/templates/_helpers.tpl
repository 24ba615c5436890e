{{/* Names, labels and what all pods have in common. */}}

{{- define "sinkserve.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{ $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "sinkserve.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "sinkserve.labels" -}}
{{ include "sinkserve.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "sinkserve.image" -}}
{{- $name := .image -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}{{ $name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "sinkserve.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "sinkserve.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "sinkserve.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sinkserve.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Database, store and logs, by settings of both services. */}}
{{- define "sinkserve.env" -}}
{{- if not (or .Values.auth.anonymous .Values.auth.env) }}{{ fail "auth: say in auth.env how callers are known, or auth.anonymous=allow" }}{{ end -}}
- name: SINKSERVE_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ required "database.existingSecret: name a Secret with the URL of a PostgreSQL database" .Values.database.existingSecret }}
      key: {{ .Values.database.key }}
- {name: SINKSERVE_DATABASE_TIMEOUT_S, value: {{ .Values.database.timeoutSeconds | quote }}}
- {name: SINKSERVE_STORE_URL, value: {{ required "store.url: say where engines are kept, such as s3://BUCKET/PREFIX" .Values.store.url | quote }}}
- {name: SINKSERVE_LOG_FORMAT, value: {{ .Values.log.format | quote }}}
- {name: SINKSERVE_AUTH_ANONYMOUS, value: {{ .Values.auth.anonymous | quote }}}
{{- with .Values.auth.env }}
{{ toYaml . }}
{{- end }}
{{- if .Values.tls.existingSecret }}
- {name: SINKSERVE_TLS_CERTIFICATE, value: /tls/tls.crt}
- {name: SINKSERVE_TLS_KEY, value: /tls/tls.key}
{{- if .Values.tls.askClients }}
- {name: SINKSERVE_TLS_CLIENT_CA, value: /tls/ca.crt}
{{- end }}
{{- end }}
{{- end }}

{{- define "sinkserve.envFrom" -}}
{{- with .Values.store.existingSecret }}
envFrom: [{secretRef: {name: {{ . }}}}]
{{- end }}
{{- end }}

{{- define "sinkserve.mounts" -}}
- {name: home, mountPath: /var/lib/sinkserve}
- {name: tmp, mountPath: /tmp}
{{- if .Values.store.volume }}
- {name: store, mountPath: /shared}
{{- end }}
{{- if .Values.auth.existingSecret }}
- {name: auth, mountPath: /auth, readOnly: true}
{{- end }}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "sinkserve.volumes" -}}
- {name: tmp, emptyDir: {}}
{{- with .Values.store.volume }}
- name: store
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.auth.existingSecret }}
- {name: auth, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with .Values.tls.existingSecret }}
- {name: tls, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- end }}

{{/* Kubernetes asks the services' own health by gRPC; that speaks no TLS, and where they do their pages are asked. */}}
{{- define "sinkserve.probes" -}}
startupProbe: {{ include "sinkserve.probe" (merge (dict "service" "liveness" "page" "/livez" "periodSeconds" 2 "timeoutSeconds" 1 "failureThreshold" 150) .) }}
livenessProbe: {{ include "sinkserve.probe" (merge (dict "service" "liveness" "page" "/livez" "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 6) .) }}
readinessProbe: {{ include "sinkserve.probe" (merge (dict "service" "readiness" "page" "/readyz" "periodSeconds" 2 "timeoutSeconds" 3 "failureThreshold" 1) .) }}
{{- end }}

{{- define "sinkserve.probe" -}}
{{- $probe := pick . "periodSeconds" "timeoutSeconds" "failureThreshold" }}
{{- if .root.Values.tls.existingSecret }}
{{- $_ := set $probe "httpGet" (dict "scheme" "HTTPS" "port" "metrics" "path" .page) }}
{{- else }}
{{- $_ := set $probe "grpc" (dict "port" .port "service" .service) }}
{{- end }}
{{- toJson $probe }}
{{- end }}

{{/* What a port of gRPC speaks, for gateways and meshes. */}}
{{- define "sinkserve.protocol" -}}
{{ ternary "https" "kubernetes.io/h2c" (not (empty .Values.tls.existingSecret)) }}
{{- end }}
