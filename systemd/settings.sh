# Options, and the file of settings that they are written to once; sourced by install.sh.

parse_options() {
  GIVEN=()
  ODOO_URL='' HTTP_PORT='' MQTT_PORT='' SETTINGS_FILE=''
  ENROLL_CODE=${ENROLL_CODE:-}
  export -n ENROLL_CODE # children get it by a pipe, where nobody else sees it
  while [ $# -gt 0 ]; do
    case $1 in
      --odoo-url) ODOO_URL=$(value_of "$@") ;;
      --enroll) ENROLL_CODE=$(value_of "$@") ;;
      --http-port) HTTP_PORT=$(value_of "$@") ;;
      --mqtt-port) MQTT_PORT=$(value_of "$@") ;;
      --hostname) give IIOT_ADVERTISED_HOST "$(value_of "$@")" ;;
      --name) give MQTT_CLIENT_ID "$(value_of "$@")" ;;
      --set) give_line "$(value_of "$@")" ;;
      --settings) SETTINGS_FILE=$(value_of "$@") ;;
      *) wrong_usage "unknown option: $1" ;;
    esac
    shift 2
  done
  [ -z "$HTTP_PORT" ] || give PORT "$HTTP_PORT"
  [ -z "$MQTT_PORT" ] || give MQTT_BROKER_PORT "$MQTT_PORT"
  [ -z "$SETTINGS_FILE" ] || [ -r "$SETTINGS_FILE" ] || fail "$SETTINGS_FILE cannot be read"
  if [ "$ENROLL_CODE" = - ]; then
    IFS= read -r ENROLL_CODE || fail "--enroll -: there is no code on standard input"
  fi
  [ -z "$ENROLL_CODE" ] || [ -n "$ODOO_URL" ] || wrong_usage "--enroll needs --odoo-url: the code is that Odoo's"
}

# give NAME VALUE: a line for the file of settings, which systemd and the appliance read in the same way.
give() {
  [[ $1 =~ ^[A-Z][A-Z0-9_]*$ ]] || wrong_usage "--set $1: a setting looks like IIOT_LOG_LEVEL=debug"
  [[ $2 =~ ^[[:print:]]*$ && $2 != *\'* ]] || wrong_usage "$1: use printable characters, and no quotes"
  if [[ $2 =~ ^[A-Za-z0-9_./:@%+,-]*$ ]]; then GIVEN+=("$1=$2"); else GIVEN+=("$1='$2'"); fi
}

give_line() {
  [[ $1 == *=* ]] || wrong_usage "--set $1: a setting looks like IIOT_LOG_LEVEL=debug"
  give "${1%%=*}" "${1#*=}"
}

mention_unused_options() {
  [ ${#GIVEN[@]} -eq 0 ] && [ -z "$SETTINGS_FILE" ] ||
    say "The settings in $SETTINGS stay as they are, whatever the options say: edit that file, then" \
      "systemctl restart iiot-appliance"
}

# setting NAME GIVEN DEFAULT: what is going to hold, as far as a shell can read it.
setting() {
  local kept=
  [ ! -r "$SETTINGS" ] || kept=$(sed -n "s/^$1=//p" "$SETTINGS" | tail -n 1 | tr -d "\"'")
  [ -n "$kept" ] || kept=${2:-$3}
  echo "$kept"
}

make_settings() {
  [ -e "$ETC" ] || undo rm -rf "$ETC"
  install -d -m 750 -o root -g "$ACCOUNT" "$ETC"
  if [ -e "$SETTINGS" ]; then
    mention_unused_options
    return
  fi
  undo rm -f "$SETTINGS"
  settings_text | put_text "$SETTINGS" 640
  chown "root:$ACCOUNT" "$SETTINGS"
}

settings_text() {
  cat <<EOF
# Settings of the IIoT Edge Appliance: a line NAME=value each, no comment behind a value; ' around a value with spaces.
# All of them are explained in $OPT/current/README.md. After a change:
#     iiot-appliance check-config && systemctl restart iiot-appliance
# The installation has written this file once and never changes it again.

EOF
  [ -z "$SETTINGS_FILE" ] || cat "$SETTINGS_FILE"
  [ ${#GIVEN[@]} -eq 0 ] || printf '%s\n' "${GIVEN[@]}"
}

# check_settings VERSION [--of-another-version]: what that version says of settings, ports and data. Names that it does not
# know may be those of another version.
check_settings() {
  local said
  # its status says the same, and a problem is no failure of the check
  said=$({ clean_cli "$1" check-config --json || true; } | "$SYSTEM_PYTHON" -c '
import json, sys
found = json.load(sys.stdin)
print("\n".join(found["problems"] + ([] if sys.argv[1:] else found["unknown"])))' "${@:2}") ||
    fail "version $1 could not check the settings, see above"
  [ -z "$said" ] || fail "with the settings in $SETTINGS version $1 would not start:
$said
Mend them there, or choose others by options"
}

# clean_cli VERSION ARGUMENTS: its command line, with the service's settings and nothing of this shell's.
clean_cli() {
  local program=$OPT/versions/$1/venv/bin/iiot-appliance
  shift
  env --ignore-environment PATH="$PATH" LANG=C.UTF-8 STATE_DIRECTORY="$DATA" APPLIANCE_ENV_FILE="$SETTINGS" "$program" "$@"
}

