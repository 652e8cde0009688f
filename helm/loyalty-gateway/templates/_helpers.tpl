{{/* The name of the objects, at most 63 characters as DNS labels demand. */}}
{{- define "loyalty-gateway.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 57 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 57 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 57 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "loyalty-gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "loyalty-gateway.labels" -}}
{{ include "loyalty-gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "loyalty-gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "loyalty-gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "loyalty-gateway.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "loyalty-gateway.claimName" -}}
{{- default (printf "%s-data" (include "loyalty-gateway.fullname" .)) .Values.persistence.existingClaim -}}
{{- end -}}

{{- define "loyalty-gateway.secretsFolder" -}}/run/secrets/loyalty{{- end -}}

{{/* The database's address may come from a Secret of its own, so it has a folder of its own. */}}
{{- define "loyalty-gateway.journalFolder" -}}/run/secrets/loyalty-journal{{- end -}}

{{/*
What must be decided before anything is rendered. Each failure names the value and says what to do;
the server would refuse the same, but only once the pod runs.
*/}}
{{- define "loyalty-gateway.validate" -}}
{{- $_ := required "secrets.existingSecret is missing: name a Secret that holds the sealing key and the outbound salt, for example: kubectl create secret generic loyalty-gateway --from-literal=sealing-key=\"$(openssl rand -base64 32)\" --from-literal=outbound-salt=\"$(openssl rand -base64 32)\"" .Values.secrets.existingSecret -}}
{{- if not .Values.secrets.sealingKeys -}}
{{- fail "secrets.sealingKeys is empty: name at least one key of the Secret, as {id: k1, key: sealing-key}" -}}
{{- end -}}
{{- $_ := required "secrets.outboundSaltKey is missing: name the key of the Secret that holds the outbound salt" .Values.secrets.outboundSaltKey -}}
{{- if not .Values.connections -}}
{{- fail "connections is empty: name at least one account with a vendor" -}}
{{- end -}}
{{- if and .Values.journal.dsnSecret.name (not .Values.journal.dsnSecret.key) -}}
{{- fail (printf "journal.dsnSecret.key is missing: name the key of the Secret %s that holds the address of the database" .Values.journal.dsnSecret.name) -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.journal.dsnSecret.key) -}}
{{- fail (printf "replicas is %v, but the journal is a SQLite file, which belongs to one process: give a PostgreSQL database with journal.dsnSecret, or one replica" .Values.replicas) -}}
{{- end -}}
{{- if and (eq .Values.journal.ha "synchronous") (not .Values.journal.dsnSecret.key) -}}
{{- fail "journal.ha is synchronous, which speaks of a PostgreSQL database: name one with journal.dsnSecret" -}}
{{- end -}}
{{- if not .Values.acceptUnauthenticatedCallers -}}
{{- fail "acceptUnauthenticatedCallers must be set to true: callers are not authenticated yet, so whoever reaches the pod may book. Say true only when a proxy or mesh that you trust stands before it and nothing else can reach it" -}}
{{- end -}}
{{- $folder := include "loyalty-gateway.secretsFolder" . -}}
{{- range $id, $connection := .Values.connections -}}
{{- range $setting, $value := $connection -}}
{{- if and (regexMatch "(?i)(key|secret|token|password|passphrase|credential)s?$" $setting) $value -}}
{{- fail (printf "connections.%s.%s: a secret must not stand in values; put it into the Secret %s, list its key in secrets.files and set %s_file: %s/KEY" $id $setting $.Values.secrets.existingSecret $setting $folder) -}}
{{- end -}}
{{- if and (hasSuffix "_file" $setting) (hasPrefix $folder (toString $value)) -}}
{{- $file := trimPrefix (printf "%s/" $folder) (toString $value) -}}
{{- if not (has $file $.Values.secrets.files) -}}
{{- fail (printf "connections.%s.%s: %s is not listed in secrets.files, so no file %s would exist" $id $setting $file $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $server := default dict .Values.config.server -}}
{{- $delay := dig "endpoint_delay_s" 5.0 $server -}}
{{- $grace := dig "drain_grace_s" 20.0 $server -}}
{{- $attempt := dig "attempt_total_s" 15.0 (default dict .Values.config.provider) -}}
{{- $needed := addf $delay $grace $attempt 3 -}}
{{- if lt (float64 .Values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %v and must not be less than %v (endpoint_delay_s + drain_grace_s + attempt_total_s + 3): a stop would cut off bookings that were sent" .Values.terminationGracePeriodSeconds $needed) -}}
{{- end -}}
{{- end -}}

{{/* The TOML file that the server reads: what the chart decides, laid over `config`. */}}
{{- define "loyalty-gateway.toml" -}}
{{- include "loyalty-gateway.validate" . -}}
{{- $folder := include "loyalty-gateway.secretsFolder" . -}}
{{- $sealing := list -}}
{{- range .Values.secrets.sealingKeys -}}
{{- $sealing = append $sealing (dict "id" .id "file" (printf "%s/%s" $folder .key)) -}}
{{- end -}}
{{- $journal := dict "path" "/var/lib/loyalty/loyalty.sqlite3" -}}
{{- if .Values.journal.dsnSecret.key -}}
{{- $journal = dict
  "dsn_file" (printf "%s/dsn" (include "loyalty-gateway.journalFolder" .))
  "ha" .Values.journal.ha -}}
{{- end -}}
{{- $ours := dict
  "profile" "production"
  "server" (dict
    "listen" "0.0.0.0:50051"
    "admin_listen" "0.0.0.0:50052"
    "metrics_listen" "0.0.0.0:50053"
    "auth" "none-behind-trusted-proxy")
  "journal" $journal
  "keys" (dict
    "sealing" $sealing
    "outbound_salt_file" (printf "%s/%s" $folder .Values.secrets.outboundSaltKey))
  "connections" .Values.connections -}}
{{- mergeOverwrite (deepCopy .Values.config) $ours | toToml -}}
{{- end -}}
