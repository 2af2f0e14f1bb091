virsh secret-define --file secret.xml
virsh secret-set-value --secret 0a81f5b2-8403-4b23-a2de-0e5b2d9b7f1c --file 'it'\''s.key'
