{{/*
Refuses values that would render, and then not work in the cluster. Every template of an object that depends on them includes this one.
*/}}
{{- define "outboxd.validate" -}}
{{- if has .Values.endpoints.address (list "127.0.0.1" "::1" "localhost") -}}
{{- fail (printf "endpoints.address: %s is a loopback address, which the kubelet's probes and Prometheus do not reach: the pod would be killed again and again. Write 0.0.0.0, or :: where pods have IPv6 addresses." .Values.endpoints.address) -}}
{{- end -}}
{{- if le (int (include "outboxd.gracePeriod" .)) (int .Values.drainTimeoutSeconds) -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is not longer than drainTimeoutSeconds (%d): the kubelet would kill outboxd in the middle of its drain, and the next pod would publish what was in flight again. Write at least %d, or leave it out." (int .Values.terminationGracePeriodSeconds) (int .Values.drainTimeoutSeconds) (int (add .Values.drainTimeoutSeconds 5))) -}}
{{- end -}}
{{- if and .Values.secret.files (not .Values.secret.name) -}}
{{- fail "secret: files without a name of the Secret. Write secret.name." -}}
{{- end -}}
{{- if not .Values.existingConfigMap -}}
{{- include "outboxd.validateConfiguration" . -}}
{{- if and .Values.deployment.enabled .Values.networkPolicy.enabled -}}
{{- include "outboxd.validatePorts" . -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Looks into the text of the configuration. outboxd itself checks it whole: `outboxd check --offline`. */}}
{{- define "outboxd.validateConfiguration" -}}
{{- $text := .Values.configuration -}}
{{- $tree := fromToml $text -}}
{{- if hasKey $tree "Error" -}}
{{- fail (printf "configuration: no TOML: %s" $tree.Error) -}}
{{- end -}}
{{- range $key := keys ($tree.admin | default dict) | sortAlpha -}}
{{- fail (printf "configuration: admin.%s does not belong into the text: probes, Service and NetworkPolicy need the same address. Remove it; endpoints.address and endpoints.port of the values set it." $key) -}}
{{- end -}}
{{- if hasKey $tree "drain_timeout_s" -}}
{{- fail "configuration: drain_timeout_s does not belong into the text: the grace period depends on it. Remove it; drainTimeoutSeconds of the values sets it." -}}
{{- end -}}
{{- if not $tree.sources -}}
{{- fail "configuration: there is no section [sources.NAME]. config/outboxd.toml in the repository documents every key." -}}
{{- end -}}
{{- if (($tree.rabbitmq).password) -}}
{{- fail "configuration: rabbitmq.password is a secret, and a ConfigMap is none. Write password_file = \"/run/secrets/outboxd/FILE\", and the password into a Secret." -}}
{{- end -}}
{{- range $name, $source := $tree.sources -}}
{{- if (($source.postgres).password) -}}
{{- fail (printf "configuration: sources.%s.postgres.password is a secret, and a ConfigMap is none. Write postgres.password_file = \"/run/secrets/outboxd/FILE\", and the password into a Secret." $name) -}}
{{- end -}}
{{- end -}}
{{- range $line := splitList "\n" $text -}}
{{- if and (not (hasPrefix "#" (trim $line))) (regexMatch "://[^/@\\s\"']*:[^/@\\s\"']+@|password=" $line) -}}
{{- fail (printf "configuration: the line of key %s has a password in a connection string, and a ConfigMap is no secret. Leave it out and write password_file = \"/run/secrets/outboxd/FILE\", or use url_file." (splitList "=" $line | first | trim)) -}}
{{- end -}}
{{- end -}}
{{- range $path := regexFindAll "/run/secrets/outboxd/[^\"'\\s]+" $text -1 | uniq -}}
{{- $file := trimPrefix "/run/secrets/outboxd/" $path -}}
{{- if not $.Values.secret.name -}}
{{- fail (printf "secret.name: the configuration names the file %s, and no Secret is mounted. outboxd would end with status 78. Write the name of the Secret that has the key %s." $path $file) -}}
{{- else if and $.Values.secret.files (not (hasKey $.Values.secret.files $file)) -}}
{{- fail (printf "secret.files: the configuration names the file %s, and there is no key %s. outboxd would end with status 78. Add the key." $path $file) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Refuses a server whose port the NetworkPolicy does not let out: connections would time out, without a word from Kubernetes. Sees the
URLs of the text only, not those in files.
*/}}
{{- define "outboxd.validatePorts" -}}
{{- $ports := dict "amqp" "5672" "amqps" "5671" "postgres" "5432" "postgresql" "5432" -}}
{{- range $url := regexFindAll "(amqps?|postgres(ql)?)://[^\"'\\s]+" .Values.configuration -1 -}}
{{- $scheme := splitList "://" $url | first -}}
{{- $key := ternary "rabbitmq" "postgresql" (hasPrefix "amqp" $scheme) -}}
{{- $open := index $.Values.networkPolicy $key "ports" | toStrings -}}
{{- $hosts := regexReplaceAll "[/?].*" (splitList "://" $url | last) "" | splitList "@" | last -}}
{{- range $host := splitList "," $hosts -}}
{{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" | default (get $ports $scheme) -}}
{{- if not (has $port $open) -}}
{{- fail (printf "networkPolicy.%s.ports: the configuration names a server at port %s, which the NetworkPolicy does not let outboxd reach. Add the port, or set networkPolicy.enabled to false." $key $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
