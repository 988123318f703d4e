{{- /* What several templates say. */ -}}

{{- /* The end of names; the revision `default` is the one without a name. */ -}}
{{- define "pylot.suffix" -}}
{{- if and .Values.revision (ne .Values.revision "default") }}-{{ .Values.revision }}{{ end }}
{{- end }}

{{- define "pylot.name" -}}
istiod{{ include "pylot.suffix" . }}
{{- end }}

{{- define "pylot.revision" -}}
{{ .Values.revision | default "default" }}
{{- end }}

{{- define "pylot.tag" -}}
{{ .Values.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Names of objects of the cluster, which several meshes may share. */ -}}
{{- define "pylot.clusterName" -}}
{{ include "pylot.name" . }}-{{ .Release.Namespace }}
{{- end }}

{{- define "pylot.selector" -}}
app: istiod
istio.io/rev: {{ include "pylot.revision" . | quote }}
{{- end }}

{{- define "pylot.labels" -}}
{{ include "pylot.selector" . }}
app.kubernetes.io/name: pylot
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "pylot.gatewayLabels" -}}
app: {{ .Values.gateway.name | quote }}
{{ toYaml .Values.gateway.labels }}
{{- end }}

{{- /* Allowed by the Pod Security level `restricted`. */ -}}
{{- define "pylot.restricted" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}
