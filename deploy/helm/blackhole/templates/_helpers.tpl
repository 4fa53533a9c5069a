{{- define "blackhole.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "blackhole.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "blackhole.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "blackhole.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The services by their key in the values: what the code of each says. `tables` are those of its configuration. */}}
{{- define "blackhole.services" -}}
ingest: { name: amqp-ingest, admin: 9401, tables: [nats, log, admin, amqp, history, catalogue] }
auth: { name: auth-svc, admin: 9402, tables: [nats, log, admin, history, auth] }
edge: { name: ws-edge, admin: 9403, tables: [nats, log, admin, catalogue, ws] }
{{- end -}}

{{/* Labels that select: of dict "root" "service". */}}
{{- define "blackhole.selector" -}}
app.kubernetes.io/name: {{ include "blackhole.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- end -}}

{{- define "blackhole.labels" -}}
{{ include "blackhole.selector" . }}
app.kubernetes.io/part-of: blackhole
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata without a name: of dict "root" "service". */}}
{{- define "blackhole.metadata" -}}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "blackhole.labels" . | nindent 2 }}
{{- with mergeOverwrite (dict) (default (dict) .root.Values.commonAnnotations) (default (dict) .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "blackhole.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "blackhole.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is required where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The image of a service: of dict "root" "image". A digest goes before a tag. */}}
{{- define "blackhole.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.image.registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A value in TOML. What JSON writes for texts, numbers and booleans is TOML as well. */}}
{{- define "blackhole.toml.value" -}}
{{- if kindIs "map" . -}}
{ {{- $first := true -}}
{{- range $key := keys . | sortAlpha -}}
{{- if not $first }}, {{ end -}}
{{- $first = false -}}
{{ $key }} = {{ include "blackhole.toml.value" (get $ $key) }}
{{- end -}} }
{{- else if kindIs "slice" . -}}
[{{- range $index, $value := . -}}{{- if $index }}, {{ end -}}{{ include "blackhole.toml.value" $value }}{{- end -}}]
{{- else -}}
{{- toRawJson . -}}
{{- end -}}
{{- end -}}

{{/* The configuration of a service in TOML: of dict "root" "key". */}}
{{- define "blackhole.toml" -}}
{{- $service := get (include "blackhole.services" .root | fromYaml) .key -}}
{{- range $table := $service.tables -}}
{{- $keys := deepCopy (default (dict) (get $.root.Values.config $table)) -}}
{{- if eq $table "admin" -}}
{{- $_ := set $keys "listen" (printf "[::]:%d" (int $service.admin)) -}}
{{- else if eq $table "ws" -}}
{{- $_ := set $keys "listen" "[::]:5555" -}}
{{- end -}}
{{- if $keys }}
[{{ $table }}]
{{- range $key := keys $keys | sortAlpha }}
{{ $key }} = {{ include "blackhole.toml.value" (get $keys $key) }}
{{- end }}
{{ end -}}
{{- end -}}
{{- end -}}

{{/* A duration such as "1m 30s" in whole seconds, rounded up. */}}
{{- define "blackhole.seconds" -}}
{{- $ms := 0.0 -}}
{{- range regexFindAll "[0-9]+ *(ms|s|m|h|d)" . -1 -}}
{{- $number := regexFind "[0-9]+" . | float64 -}}
{{- $unit := regexFind "(ms|s|m|h|d)" . -}}
{{- $ms = addf $ms (mulf $number (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit)) -}}
{{- end -}}
{{- divf $ms 1000 | ceil | int64 -}}
{{- end -}}

{{/*
The time that Kubernetes has to allow a service to end by itself: of dict "root" "key". An edge accepts for ws.drain_wait,
closes its sessions over ws.drain, or longer if ws.drain_per_second makes it so, and gives them 8 s to end. The others
need at most 10 s. 5 s are to spare.
*/}}
{{- define "blackhole.grace" -}}
{{- if eq .key "edge" -}}
{{- $ws := .root.Values.config.ws -}}
{{- $wait := include "blackhole.seconds" (default "1s" $ws.drain_wait) | int64 -}}
{{- $drain := include "blackhole.seconds" (default "30s" $ws.drain) | int64 -}}
{{- $slowest := divf (default 50000 $ws.max_connections) (default 1000 $ws.drain_per_second) | ceil | int64 -}}
{{- add $wait (max $drain $slowest) 8 5 -}}
{{- else -}}
15
{{- end -}}
{{- end -}}

{{/* Restricted pod security, without a fixed user id: of dict "root". */}}
{{- define "blackhole.podSecurity" -}}
runAsNonRoot: true
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "blackhole.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/*
The volume of an existing Secret or ConfigMap: of dict "name" "from". It has to exist, which is the default; podman 4 wants to be
told.
*/}}
{{- define "blackhole.volume" -}}
- name: {{ .name }}
  {{- if .from.secret }}
  secret: { secretName: {{ .from.secret | quote }}, defaultMode: 0440, optional: false }
  {{- else }}
  configMap: { name: {{ required (printf "files.%s needs the name of a secret or of a configMap" .name) .from.configMap | quote }}, defaultMode: 0444, optional: false }
  {{- end }}
{{- end -}}
