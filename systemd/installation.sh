# Installing, upgrading, going back, removing; sourced by install.sh.
#
# /opt/iiot-appliance/versions/VERSION   programs; `current` and `previous` point to two of them
# /etc/iiot-appliance/appliance.env      settings, written once
# /var/lib/iiot-appliance                data; iiot-appliance-backups beside it
# /usr/local/lib/systemd/system          units; drop-ins of the administrator stand in /etc/systemd/system and are never touched
# /usr/local/bin/iiot-appliance          the command line with the service's settings

ACCOUNT=iiot-appliance
SERVICE=iiot-appliance.service
TIMER=iiot-appliance-backup.timer
OPT=/opt/iiot-appliance
ETC=/etc/iiot-appliance
SETTINGS=$ETC/appliance.env
DATA=/var/lib/iiot-appliance
BACKUPS=/var/lib/iiot-appliance-backups
UNITS=/usr/local/lib/systemd/system
COMMAND=/usr/local/bin/iiot-appliance
SYSTEM_PYTHON=/usr/bin/python3
BACK_OFF=$UNITS/$SERVICE.d/back-off.conf # not for systemd before 254, which does not know its keys

# --- commands ---------------------------------------------------------------------------------------------------

install_appliance() {
  local command=$1
  shift
  parse_options "$@"
  begin
  local version current
  version=$(source_version)
  current=$(version_of current)
  if [ "$current" = "$version" ] && is_as_installed; then
    say "Version $version is installed already, and $(systemctl is-active "$SERVICE" || true). Nothing was changed."
    mention_unused_options
    return
  fi
  [ "$command" = install ] || [ -n "$current" ] || fail "nothing is installed here yet: sudo $SCRIPT install"
  check_machine
  ensure_system_python
  [ -n "$current" ] || check_ports "$(setting PORT "$HTTP_PORT" 8000)" "$(setting MQTT_BROKER_PORT "$MQTT_PORT" 8883)"
  stage_version "$version"
  if [ -z "$current" ]; then
    install_first "$version"
  else
    mention_unused_options
    replace_version "$current" "$version"
  fi
  commit
  remove_old_versions
  [ -z "$ENROLL_CODE" ] || enroll_now
  [ -n "$current" ] && say "Version $version runs. Back to $current: sudo iiot-appliance-install rollback" || say_next_steps
}

install_first() {
  local version=$1
  make_account
  make_settings
  check_settings "$version"
  [ -e "$DATA" ] || undo rm -rf "$DATA"
  undo remove_programs
  put_programs "$version"
  systemctl daemon-reload
  undo systemctl disable --quiet --now "$SERVICE" "$TIMER"
  systemctl enable --quiet "$SERVICE" "$TIMER"
  start_and_wait || fail "the appliance did not get ready within $READY_WITHIN_S s, see above. What it said last:$(last_words)"
  systemctl start "$TIMER"
}

# replace_version FROM TO: TO takes FROM's place, or FROM goes on.
replace_version() {
  local from=$1 to=$2 before
  before=$(version_of previous)
  check_ways "$from" "$to"
  check_settings "$to" --of-another-version
  undo switch_back "$from" "$before"
  say "Version $to takes the place of $from"
  systemctl stop "$SERVICE"
  [ "$from" = "$to" ] || point previous "$from"
  put_programs "$to"
  systemctl daemon-reload
  start_and_wait ||
    fail "version $to did not get ready within $READY_WITHIN_S s. What it said last:$(last_words)"
  systemctl is-enabled --quiet "$TIMER" && systemctl start "$TIMER" || true
}

rollback() {
  [ $# -eq 0 ] || wrong_usage "rollback has no options"
  begin
  local current previous
  current=$(version_of current)
  previous=$(version_of previous)
  [ -n "$current" ] || fail "nothing is installed here"
  [ -n "$previous" ] && [ "$previous" != "$current" ] && [ -e "$OPT/versions/$previous/complete" ] ||
    fail "no version from before $current is kept here"
  "$OPT/versions/$previous/systemd/environment" || fail "the Python environment could not be made, see above"
  replace_version "$current" "$previous"
  commit
  say "Version $previous runs again. Everything that $current has stored is still there."
}

uninstall() {
  local purge=
  case "$*" in
    '') ;;
    --purge) purge=yes ;;
    *) wrong_usage "uninstall knows --purge and nothing else" ;;
  esac
  begin
  say "Stopping and removing the appliance"
  systemctl disable --quiet --now "$TIMER" "$SERVICE" 2>/dev/null || true
  remove_programs
  rm -rf "$OPT"
  if [ -z "$purge" ]; then
    say "Data ($DATA, $BACKUPS) and settings ($ETC) are kept; the next installation goes on with them. To remove them" \
      "too: uninstall --purge"
    return
  fi
  rm -rf "$DATA" "$BACKUPS" "$ETC" "/etc/systemd/system/$SERVICE.d"
  ! id "$ACCOUNT" >/dev/null 2>&1 || userdel "$ACCOUNT"
  say "Nothing of the appliance is left here."
}

# --- beginning and ending ---------------------------------------------------------------------------------------

begin() {
  check_root
  exec 8>/run/iiot-appliance-install.lock
  flock --nonblock 8 || fail "another installation is under way here: wait until it has ended"
  on_exit_undo
}

ensure_system_python() {
  check_python || install_packages python3 || true
  check_python || fail "Debian's Python is needed. As root: apt-get install python3 (or from Debian's installation medium)"
  [ -e "$ROOT/VERSION" ] || ensure_python
}

# --- a version's programs ---------------------------------------------------------------------------------------

version_of() { basename "$(readlink "$OPT/$1" 2>/dev/null || true)"; }

# point NAME VERSION: the links change in one step, so a power cut leaves the old or the new one.
point() {
  if [ -z "$2" ]; then
    rm -f "$OPT/$1"
    return
  fi
  ln -sfn "versions/$2" "$OPT/$1.new"
  mv -T "$OPT/$1.new" "$OPT/$1"
}

stage_version() {
  local version=$1 folder=$OPT/versions/$1
  if [ ! -e "$folder/complete" ]; then
    [ -e "$OPT" ] || undo rm -rf "$OPT"
    rm -rf "$folder"
    undo rm -rf "$folder"
    mkdir -p "$folder"
    make_version "$folder" "$(dpkg --print-architecture)"
    chown -R root:root "$folder"
    chmod -R go-w,a+rX "$folder"
    "$folder/systemd/environment" || fail "the Python environment could not be made, see above"
    sync
    touch "$folder/complete"
  fi
  "$folder/systemd/environment" || fail "the Python environment could not be made, see above"
}

# put_programs VERSION: units, the command line, and `current`.
put_programs() {
  local folder=$OPT/versions/$1 unit
  mkdir -p "$UNITS"
  for unit in "$folder"/systemd/*.service "$folder"/systemd/*.timer; do
    put_file "$unit" "$UNITS/${unit##*/}" 644
  done
  for unit in "$UNITS"/iiot-appliance*.service "$UNITS"/iiot-appliance*.timer; do
    [ -e "$folder/systemd/${unit##*/}" ] || rm -f "$unit"
  done
  if [ "$(systemd_version)" -ge 254 ]; then
    mkdir -p "${BACK_OFF%/*}"
    put_file "$folder/systemd/back-off.conf" "$BACK_OFF" 644
  fi
  command_line | put_text "$COMMAND" 755
  printf '#!/bin/sh\nexec %s/current/install.sh "$@"\n' "$OPT" | put_text "$COMMAND-install" 755
  point current "$1"
}

# is_as_installed: whether everything is there as put_programs left it, and runs.
is_as_installed() {
  local folder=$OPT/current unit
  [ -e "$folder/complete" ] && [ -e "$folder/venv/bin/iiot-appliance" ] && [ -e "$SETTINGS" ] || return 1
  for unit in "$folder"/systemd/*.service "$folder"/systemd/*.timer; do
    cmp -s "$unit" "$UNITS/${unit##*/}" || return 1
  done
  command_line | cmp -s - "$COMMAND" || return 1
  systemctl is-active --quiet "$SERVICE"
}

systemd_version() { systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p'; }

command_line() {
  cat <<EOF
#!/bin/sh
# The appliance's command line, with the settings and the data folder of the service.
STATE_DIRECTORY=$DATA APPLIANCE_ENV_FILE=$SETTINGS exec $OPT/current/venv/bin/iiot-appliance "\$@"
EOF
}

put_file() { put_text "$2" "$3" <"$1"; }

# put_text FILE MODE: standard input becomes the file, in one step, unless it is the same already.
put_text() {
  cat >"$1.new"
  chmod "$2" "$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}

# What put_programs has put outside of the version's folder.
remove_programs() {
  rm -f "$UNITS"/iiot-appliance*.service "$UNITS"/iiot-appliance*.timer "$BACK_OFF" "$COMMAND" "$COMMAND-install"
  rm -f "$OPT/current" "$OPT/previous" "/var/lib/systemd/timers/stamp-$TIMER"
  rmdir --ignore-fail-on-non-empty "${BACK_OFF%/*}" "$UNITS" "${UNITS%/*}" 2>/dev/null || true
  systemctl daemon-reload
  systemctl reset-failed 'iiot-appliance*' 2>/dev/null || true
}

remove_old_versions() {
  local folder
  for folder in "$OPT"/versions/*; do
    case ${folder##*/} in
      "$(version_of current)" | "$(version_of previous)") ;;
      *) rm -rf "$folder" ;;
    esac
  done
}

# --- going back -------------------------------------------------------------------------------------------------

# check_ways FROM TO: TO can go on with the database that FROM has used, and FROM with what TO will make of it. Nothing is
# copied and nothing put back: what was acknowledged meanwhile would be lost with it (appliance/store/schema.py).
check_ways() {
  local needed
  needed=$(needs "$1")
  knows "$2" "$needed" ||
    fail "version $2 is too old for the database here: $1 has changed it ($needed) so that $2 could not go on with it"
  needed=$(needs "$2")
  knows "$1" "$needed" ||
    fail "version $2 changes the database ($needed) so that $1 could not go on with it, and there would be no way back. Install" \
      "a version between the two first"
}

# needs VERSION: the migration that whoever uses a database of that version must know.
needs() { "$OPT/versions/$1/venv/bin/python" -I -c 'from appliance.store import schema; print(schema.NEEDS)'; }

# knows VERSION MIGRATION
knows() {
  "$OPT/versions/$1/venv/bin/python" -I -c 'import sys
from appliance.store import schema
sys.exit(not schema.knows(sys.argv[1]))' "$2"
}

# switch_back VERSION PREVIOUS: undoing replace_version.
switch_back() {
  say "Going back to version $1"
  systemctl stop "$SERVICE" || true
  put_programs "$1"
  point previous "$2"
  systemctl daemon-reload
  if start_and_wait; then
    say "Version $1 runs again."
  else
    say "Version $1 does not get ready either: look at journalctl -u iiot-appliance. Nothing that was acknowledged is lost, it" \
      "is in $DATA."
  fi
}

# --- account ------------------------------------------------------------------------------------------------------

make_account() {
  id "$ACCOUNT" >/dev/null 2>&1 && return
  undo userdel "$ACCOUNT"
  useradd --system --user-group --no-create-home --home-dir "$DATA" --shell /usr/sbin/nologin "$ACCOUNT"
}

# --- starting and enrolling -------------------------------------------------------------------------------------

# start_and_wait: whether the service gets ready: systemd has heard so, and it answers over its own API.
start_and_wait() {
  local deadline=$((SECONDS + READY_WITHIN_S)) state restarts status
  systemctl reset-failed "$SERVICE" 2>/dev/null || true
  systemctl start --no-block "$SERVICE"
  while [ "$SECONDS" -lt "$deadline" ]; do
    state=$(systemctl show --property ActiveState --value "$SERVICE")
    if [ "$state" = active ]; then
      status=0
      clean_cli "$(version_of current)" status --json >/dev/null 2>&1 || status=$?
      # 8: it works, and somebody should look at something
      case $status in 0 | 8) return 0 ;; esac
    fi
    restarts=$(systemctl show --property NRestarts --value "$SERVICE")
    [ "$restarts" -lt 3 ] || return 1
    sleep 0.3
  done
  return 1
}

last_words() {
  echo
  journalctl --unit "$SERVICE" --unit iiot-appliance-environment.service --lines 15 --no-pager --output cat 2>/dev/null || true
}

enroll_now() {
  local version
  version=$(version_of current)
  if ! printf '%s\n' "$ENROLL_CODE" | clean_cli "$version" enroll --odoo "$ODOO_URL" --code - >&2; then
    say "The appliance is installed and runs, but Odoo does not know it yet (see above). Then, with a code that is still good:" \
      "  sudo iiot-appliance enroll --odoo $ODOO_URL --code CODE && sudo systemctl restart iiot-appliance"
    exit 1
  fi
  systemctl restart "$SERVICE"
  start_and_wait || fail "the appliance did not get ready again after it was enrolled:$(last_words)"
}

say_next_steps() {
  local host port scheme=https version password passphrase
  version=$(version_of current)
  host=$(setting IIOT_ADVERTISED_HOST '' "$(hostname -f 2>/dev/null || hostname)")
  port=$(setting PORT '' 8000)
  case $(setting HTTP_USE_TLS '' True) in [Ff0Nn]*) scheme=http ;; esac
  # both are told this once: an installation that goes on with earlier data has them no more
  password=$(clean_cli "$version" page-password show 2>/dev/null || true)
  passphrase=$(clean_cli "$version" recovery new 2>/dev/null || true)
  cat <<EOF

The appliance runs, and starts with this machine.

  Status page    $scheme://$host:$port/
EOF
  if [ -n "$password" ]; then
    echo "  Its password   $password     (choose your own there)"
  else
    echo "  Its password   is yours from before; a new one: sudo iiot-appliance page-password reset"
  fi
  cat <<EOF
  Devices        $host:$(setting MQTT_BROKER_PORT '' 8883) (MQTT)
  Authority      SHA-256 fingerprint $(fingerprint)
  How it is      sudo iiot-appliance status, or check; journalctl -u iiot-appliance
  Settings       $SETTINGS
EOF
  [ -z "$passphrase" ] || cat <<EOF

Write this down, away from the box. It is not shown again, and with it another box can take this one's place without pairing
every device anew (README, "Backup and replacement"):

  Recovery passphrase   $passphrase
EOF
  [ -n "$ODOO_URL" ] || ODOO_URL=https://your-odoo.example.com
  [ -n "$ENROLL_CODE" ] || cat <<EOF

Next, pair it with Odoo: make a code in the gateway's form there, then

  sudo iiot-appliance enroll --odoo $ODOO_URL --code CODE
  sudo systemctl restart iiot-appliance
EOF
}

fingerprint() {
  "$SYSTEM_PYTHON" - "$DATA/tls/authority.pem" <<'EOF' 2>/dev/null || echo "is in the journal"
import hashlib, re, ssl, sys
text = re.search("-----BEGIN CERT.+?END CERT[A-Z]*-----", open(sys.argv[1]).read(), re.DOTALL)[0]
print(hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).digest().hex(":").upper())
EOF
}
