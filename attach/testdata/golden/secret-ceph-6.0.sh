virsh secret-define --file secret.xml
printf 'secret-set-value --secret 0a81f5b2-8403-4b23-a2de-0e5b2d9b7f1c --base64 %s\n' "$(tr -d '\n' < 'it'\''s.key')" | VIRSH_HISTSIZE=0 virsh -q > /dev/null
