{{/* Name of all objects: the release's name, with "outboxd" unless that is a part of it. */}}
{{- define "outboxd.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which pods are selected. They never change: a Deployment's selector cannot. */}}
{{- define "outboxd.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "outboxd.labels" -}}
{{ include "outboxd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "outboxd.configMapName" -}}
{{- .Values.existingConfigMap | default (include "outboxd.fullname" .) -}}
{{- end -}}

{{- define "outboxd.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "outboxd.gracePeriod" -}}
{{- .Values.terminationGracePeriodSeconds | default (add .Values.drainTimeoutSeconds 15) -}}
{{- end -}}

{{/* admin.listen. An IPv6 address stands in brackets. */}}
{{- define "outboxd.listen" -}}
{{- $address := .Values.endpoints.address -}}
{{- printf "%s:%d" (ternary (printf "[%s]" $address) $address (contains ":" $address)) (int .Values.endpoints.port) -}}
{{- end -}}
