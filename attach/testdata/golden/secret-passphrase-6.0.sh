virsh secret-define --file secret.xml
printf 'secret-set-value --secret 7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c --base64 %s\n' "$(base64 -w0 < 'it'\''s.key')" | VIRSH_HISTSIZE=0 virsh -q > /dev/null
