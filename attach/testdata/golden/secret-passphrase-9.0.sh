virsh secret-define --file secret.xml
virsh secret-set-value --secret 7d5b2c0e-31b4-4a5c-9d0b-6f7d0e1a2b3c --plain --file 'it'\''s.key'
