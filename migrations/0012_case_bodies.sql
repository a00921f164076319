comment on column quarantine.body is 'The message as it came, but for masked card data (setting mask_cards); at most its first MiB. The fingerprint is that of the original.';
