{{/* What the container is, in a pod of its own and in a sidecar alike: everything but name, readinessProbe and restartPolicy. */}}
{{- define "outboxd.container" -}}
image: {{ include "outboxd.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["--log-format", {{ .Values.log.format | quote }}, "run"]
env:
  # These two go before the file: probes and grace period depend on them.
  - name: OUTBOXD__ADMIN__LISTEN
    value: {{ include "outboxd.listen" . | quote }}
  - name: OUTBOXD__DRAIN_TIMEOUT_S
    value: {{ .Values.drainTimeoutSeconds | quote }}
  {{- with .Values.log.filter }}
  - name: OUTBOXD_LOG
    value: {{ . | quote }}
  {{- end }}
ports:
  - name: outboxd-admin
    containerPort: {{ .Values.endpoints.port }}
# Never /readyz: a restart does not bring a broker back.
livenessProbe:
  httpGet:
    path: /healthz
    port: outboxd-admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65534
  runAsGroup: 65534
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  - name: outboxd-configuration
    mountPath: /etc/outboxd
    readOnly: true
  {{- if .Values.secret.name }}
  # No subPath: files of a subPath do not follow a Secret that changes.
  - name: outboxd-secret
    mountPath: /run/secrets/outboxd
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The volumes of the container. */}}
{{- define "outboxd.volumes" -}}
- name: outboxd-configuration
  configMap:
    name: {{ include "outboxd.configMapName" . }}
{{- with .Values.secret.name }}
- name: outboxd-secret
  secret:
    secretName: {{ . }}
    # Readable for the group, which is the pod's fsGroup.
    defaultMode: 0440
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Annotations with checksums: a Deployment rolls out when they change. The Secret has none: outboxd reads its files for every connection.
*/}}
{{- define "outboxd.checksums" -}}
{{- if not .Values.existingConfigMap -}}
checksum/configuration: {{ .Values.configuration | sha256sum }}
{{- end -}}
{{- end -}}

{{/*
A sidecar in the pod of an application, for the list initContainers: restartPolicy Always makes it one. It starts before the application and
ends after it. No readinessProbe: a broker that is away would take the application's pods out of service. No startupProbe: the
application would wait for it.
*/}}
{{- define "outboxd.sidecar.container" -}}
{{- include "outboxd.validate" . -}}
- name: outboxd
  restartPolicy: Always
  {{- include "outboxd.container" . | nindent 2 }}
{{- end -}}

{{- define "outboxd.sidecar.volumes" -}}
{{- include "outboxd.volumes" . -}}
{{- end -}}
