# The tests' hand in the guest: a raw disk that `sh /dev/vda` reads. It says what the next init was given, answers
# connections to port 80 by echo, runs commands that come by the second serial port, and becomes the real init.
serve() {
    while read -r token command; do
        output=$(eval "$command" 2>&1 </dev/null)
        code=$?
        printf '%s\n%s %s\n' "$output" "$token" "$code"
    done
}

encoded() { base64 "$1" | tr -d '\n'; }

if [ $$ = 1 ]; then
    echo '<6>vm: next init' >/dev/kmsg
    mount -t proc proc /proc
fi
exec 3<>/dev/ttyS1 # held open: what comes in while nobody has it open is lost
stty 115200 raw -echo <&3
printf '\nready %s %s %s\n' "$(encoded /proc/$$/cmdline)" "$(encoded /proc/$$/environ)" "$(encoded /proc/mounts)" >&3
nc -ll -p 80 -e cat </dev/null >/dev/null 2>&1 3>&- &
serve <&3 >&3 2>&1 &
[ $$ != 1 ] || { umount -l /proc; exec /sbin/init 3>&-; }
