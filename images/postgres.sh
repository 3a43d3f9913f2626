#!/bin/sh
# A PostgreSQL for trying: one database, one role with the password in POSTGRES_PASSWORD, TLS with a certificate of its own.
set -eu
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    new=$PGDATA.new
    rm -rf "$new"
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb --username=rhizon --auth=scram-sha-256 --pwfile=/tmp/password --encoding=UTF8 --locale=C -D "$new"
    rm /tmp/password
    openssl req -new -x509 -nodes -days 365 -subj /CN=postgres -keyout "$new/server.key" -out "$new/server.crt"
    echo "hostssl all all all scram-sha-256" >>"$new/pg_hba.conf"
    # Renamed as a whole: a start that is cut off leaves nothing that looks finished.
    mv "$new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories= -c ssl=on -c jit=off
