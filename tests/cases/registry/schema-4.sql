-- The registry's schema 4, which has the generations of images.
CREATE TABLE device (
	pool TEXT NOT NULL, 
	id INTEGER NOT NULL, 
	role TEXT NOT NULL, 
	name TEXT NOT NULL, 
	chain TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	"transaction" INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	mapped INTEGER NOT NULL, 
	PRIMARY KEY (pool, id), 
	CHECK (role IN ('volume', 'snapshot', 'orphan')), 
	CHECK (state IN ('creating', 'held', 'deleting'))
)
 STRICT

;
CREATE TABLE event (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at REAL NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	message TEXT NOT NULL, 
	run TEXT NOT NULL
)
 STRICT

;
CREATE TABLE generation (
	image TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	PRIMARY KEY (image)
)
 STRICT

;
CREATE TABLE image (
	name TEXT NOT NULL, 
	pool TEXT NOT NULL, 
	chain TEXT, 
	size INTEGER NOT NULL, 
	retain INTEGER NOT NULL, 
	PRIMARY KEY (name), 
	CHECK (retain IN (0, 1))
)
 STRICT

;
CREATE TABLE manifest (
	path TEXT NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (path)
)
 STRICT

;
CREATE TABLE mark (
	image TEXT NOT NULL, 
	what TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	since REAL NOT NULL, 
	until REAL NOT NULL, 
	PRIMARY KEY (image, what), 
	CHECK (what IN ('protected', 'suspended', 'undeclared', 'retry'))
)
 STRICT

;
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
)
 STRICT

;
INSERT INTO "meta" VALUES('host','0c028f4a035f18dd5ddd13c46c47763e');
INSERT INTO "meta" VALUES('serial','0');
INSERT INTO "meta" VALUES('horizon','0');
INSERT INTO "meta" VALUES('schema','4');
CREATE TABLE pool (
	name TEXT NOT NULL, 
	stamp INTEGER NOT NULL, 
	"transaction" INTEGER NOT NULL, 
	PRIMARY KEY (name)
)
 STRICT

;
CREATE TABLE run (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id TEXT NOT NULL, 
	machine TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	name TEXT NOT NULL, 
	pool TEXT NOT NULL, 
	state TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	opened REAL NOT NULL, 
	updated REAL NOT NULL, 
	input TEXT NOT NULL, 
	data TEXT NOT NULL, 
	status TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	spent REAL NOT NULL, 
	crashes INTEGER NOT NULL, 
	not_before REAL NOT NULL, 
	cancel TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	message TEXT NOT NULL, 
	CHECK (status IN ('active', 'done', 'failed', 'cancelled', 'needs-operator')), 
	CHECK (kind IN ('Pool', 'Image', 'Volume', 'Snapshot', 'Layer')), 
	CHECK (json_valid(input)), 
	CHECK (json_valid(data)), 
	UNIQUE (id)
)
 STRICT

;
CREATE TABLE seen (
	origin TEXT NOT NULL, 
	etag TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	PRIMARY KEY (origin, etag, size)
)
 STRICT

;
CREATE TABLE sequence (
	pool TEXT NOT NULL, 
	last INTEGER NOT NULL, 
	PRIMARY KEY (pool)
)
 STRICT

;
CREATE TABLE snapshot (
	pool TEXT NOT NULL, 
	name TEXT NOT NULL, 
	image TEXT NOT NULL, 
	chain TEXT NOT NULL, 
	identity TEXT NOT NULL, 
	PRIMARY KEY (pool, name)
)
 STRICT

;
CREATE TABLE transition (
	run TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	from_state TEXT NOT NULL, 
	to_state TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	started REAL NOT NULL, 
	ended REAL, 
	result TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	message TEXT NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (run, seq), 
	CHECK (result IN ('running', 'advanced', 'retry', 'failed', 'needs-operator', 'stopped', 'interrupted', 'cancelled', 'noted')), 
	CHECK (json_valid(data)), 
	FOREIGN KEY(run) REFERENCES run (id) ON DELETE CASCADE
)
 STRICT

;
CREATE TABLE volume (
	pool TEXT NOT NULL, 
	chain TEXT NOT NULL, 
	parent TEXT, 
	size INTEGER NOT NULL, 
	digests TEXT NOT NULL, 
	identity TEXT NOT NULL, 
	PRIMARY KEY (pool, chain), 
	CHECK (json_valid(digests))
)
 STRICT

;
CREATE INDEX event_subject ON event (kind, name);
CREATE UNIQUE INDEX run_open ON run (machine, kind, pool, name) WHERE status IN ('active', 'needs-operator') AND cancel = '';
CREATE INDEX run_subject ON run (kind, pool, name);
CREATE TRIGGER event_unchanged BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER event_kept BEFORE DELETE ON event
       WHEN NOT COALESCE(OLD.seq < (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'horizon'), FALSE)
       BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER event_not_replaced BEFORE INSERT ON event WHEN NEW.seq IN (SELECT seq FROM event)
       BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
DELETE FROM "sqlite_sequence";
