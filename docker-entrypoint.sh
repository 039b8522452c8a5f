#!/bin/sh
# Runs papermill with these arguments; SIGTERM goes to the notebook's kernel, which saves the run.
stop() {
  for process in /proc/[0-9]*; do
    if tr '\0' ' ' < "$process/cmdline" 2> /dev/null | grep -q 'ipykernel_launcher'; then
      kill -TERM "${process#/proc/}"
    fi
  done
}
trap stop TERM
papermill "$@" &
wait $! || wait $!
