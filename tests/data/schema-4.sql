-- A store as an l0 of schema 4 left it.
PRAGMA application_id = 1815114853;
PRAGMA user_version = 4;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE run (
    id         INTEGER PRIMARY KEY,
    uuid       BLOB    NOT NULL UNIQUE,
    boot       BLOB    NOT NULL, -- which start of the machine
    pid        INTEGER NOT NULL,
    process_started INTEGER NOT NULL, -- tells a process from a later one of the same pid
    service    TEXT,
    version    TEXT,
    host       TEXT,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    outcome    TEXT    NOT NULL CHECK (outcome IN ('running', 'clean', 'panicked', 'killed')),
    stored     INTEGER NOT NULL DEFAULT 0
, span_key INTEGER NOT NULL DEFAULT 0, warning_bytes INTEGER NOT NULL DEFAULT 0, rollup_bytes INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO run VALUES(1,X'01a207a52df67499819a2fdbb2e3fdca',X'a16b007865e34600abbc8c68631f65d8',28967,3720547,'fixture','0.0.1','vm',1795424595465476541,1795424595476020623,'clean',104,-1638834002181402685,838,782);
CREATE TABLE lane (
    run      INTEGER NOT NULL,
    lane     INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (run, lane)
) STRICT, WITHOUT ROWID;
CREATE TABLE shed (
    run      INTEGER NOT NULL,
    minute   INTEGER NOT NULL, -- unix seconds
    reason   TEXT    NOT NULL,
    severity INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (run, minute, reason, severity)
) STRICT, WITHOUT ROWID;
CREATE TABLE name (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
, row_generation INTEGER NOT NULL DEFAULT 0, warning_generation INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO name VALUES(1,'acme',3,2);
CREATE TABLE callsite (
    id          INTEGER PRIMARY KEY,
    kind        INTEGER NOT NULL, -- 1 event, 2 span, 3 log
    severity    INTEGER NOT NULL,
    target      TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    module_path TEXT    NOT NULL,
    file        TEXT    NOT NULL,
    line        INTEGER NOT NULL, row_generation INTEGER NOT NULL DEFAULT 0, warning_generation INTEGER NOT NULL DEFAULT 0,
    UNIQUE (target, line, file, name, module_path, kind, severity)
) STRICT;
INSERT INTO callsite VALUES(1,2,2,'fix','worker','fix','examples/fix.rs',5,3,0);
INSERT INTO callsite VALUES(2,2,2,'fix','take','fix','examples/fix.rs',8,3,0);
INSERT INTO callsite VALUES(3,1,2,'fix','event examples/fix.rs:9','fix','examples/fix.rs',9,3,0);
INSERT INTO callsite VALUES(4,2,2,'fix','charge','fix','examples/fix.rs',10,3,0);
INSERT INTO callsite VALUES(5,1,2,'fix','event examples/fix.rs:10','fix','examples/fix.rs',10,3,0);
INSERT INTO callsite VALUES(6,1,4,'fix','event examples/fix.rs:10','fix','examples/fix.rs',10,3,2);
INSERT INTO callsite VALUES(7,1,2,'fix','event examples/fix.rs:13','fix','examples/fix.rs',13,3,0);
CREATE TABLE event (
    at          INTEGER PRIMARY KEY, -- or the next free nanosecond
    run         INTEGER NOT NULL,
    severity    INTEGER NOT NULL,
    callsite    INTEGER,
    span        INTEGER,
    trace       INTEGER,
    message     TEXT,
    payload     TEXT,
    event_type  INTEGER,
    source      INTEGER,
    category    INTEGER,
    tenant      INTEGER,
    actor       INTEGER,
    status      INTEGER,
    duration_ns INTEGER
) STRICT;
INSERT INTO event VALUES(1795424595466421773,1,2,3,2,2,'order placed','{"order":0}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466496623,1,2,5,3,2,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466537833,1,2,5,3,2,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466602738,1,2,3,4,3,'order placed','{"order":3}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466614124,1,2,5,5,3,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466615877,1,2,5,5,3,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466642646,1,2,3,6,4,'order placed','{"order":6}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466648565,1,2,5,7,4,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466650177,1,2,5,7,4,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466677267,1,2,3,8,5,'order placed','{"order":9}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466683576,1,2,5,9,5,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466770984,1,2,3,10,6,'order placed','{"order":12}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466778074,1,2,5,11,6,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466779877,1,2,5,11,6,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466803041,1,2,3,12,7,'order placed','{"order":15}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466810542,1,2,5,13,7,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466812274,1,2,5,13,7,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466836960,1,2,3,14,8,'order placed','{"order":18}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466842879,1,2,5,15,8,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466844531,1,2,5,15,8,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466875697,1,2,3,17,10,'order placed','{"order":1}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466881555,1,2,5,18,10,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466883168,1,2,5,18,10,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466908485,1,2,3,19,11,'order placed','{"order":4}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466925840,1,2,5,20,11,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466928875,1,2,5,20,11,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466986389,1,2,3,21,12,'order placed','{"order":7}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595466999037,1,2,5,22,12,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467002032,1,2,5,22,12,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467053217,1,2,3,23,13,'order placed','{"order":10}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467060016,1,2,5,24,13,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467061649,1,2,5,24,13,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467086105,1,2,3,25,14,'order placed','{"order":13}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467092864,1,2,5,26,14,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467094517,1,2,5,26,14,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467116589,1,2,3,27,15,'order placed','{"order":16}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467122468,1,2,5,28,15,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467146753,1,2,3,29,16,'order placed','{"order":19}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467152572,1,2,5,30,16,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467154194,1,2,5,30,16,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467183868,1,2,3,32,18,'order placed','{"order":2}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467189536,1,2,5,33,18,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467216555,1,2,3,34,19,'order placed','{"order":5}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467222284,1,2,5,35,19,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467223946,1,2,5,35,19,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467245407,1,2,3,36,20,'order placed','{"order":8}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467250956,1,2,5,37,20,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467252608,1,2,5,37,20,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467273699,1,2,3,38,21,'order placed','{"order":11}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467280789,1,2,5,39,21,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467282352,1,2,5,39,21,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467303523,1,2,3,40,22,'order placed','{"order":14}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467309211,1,2,5,41,22,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467310853,1,2,5,41,22,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467331884,1,2,3,42,23,'order placed','{"order":17}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467337582,1,2,5,43,23,'charging',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467339385,1,2,5,43,23,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795424595467394436,1,2,7,NULL,NULL,'done',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE warning (
    at          INTEGER PRIMARY KEY,
    run         INTEGER NOT NULL,
    severity    INTEGER NOT NULL,
    callsite    INTEGER,
    span        INTEGER,
    trace       INTEGER,
    message     TEXT,
    payload     TEXT,
    event_type  INTEGER,
    source      INTEGER,
    category    INTEGER,
    tenant      INTEGER,
    actor       INTEGER,
    status      INTEGER,
    duration_ns INTEGER
) STRICT;
INSERT INTO warning VALUES(1795424595466736884,1,4,6,9,5,'card refused','{"order":9}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO warning VALUES(1795424595467124451,1,4,6,28,15,'card refused','{"order":16}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO warning VALUES(1795424595467191368,1,4,6,33,18,'card refused','{"order":2}',NULL,NULL,NULL,1,NULL,NULL,NULL);
CREATE TABLE span (
    id          INTEGER PRIMARY KEY,
    run         INTEGER NOT NULL,
    own         INTEGER NOT NULL, -- its id within the run
    state       INTEGER NOT NULL, -- 0 closed, 1 running, 2 interrupted
    callsite    INTEGER NOT NULL,
    parent      INTEGER,
    trace       INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_ns INTEGER,
    errors      INTEGER NOT NULL,
    payload     TEXT,
    name        INTEGER,
    event_type  INTEGER,
    category    INTEGER,
    tenant      INTEGER,
    actor       INTEGER,
    status      INTEGER
, is_root INTEGER NOT NULL DEFAULT 0, is_failed INTEGER NOT NULL DEFAULT 0) STRICT;
INSERT INTO span VALUES(1,1,1,0,1,NULL,1,1795424595466170025,685923,0,'{"worker":0}',NULL,NULL,NULL,NULL,NULL,NULL,1,0);
INSERT INTO span VALUES(2,1,2,0,2,1,2,1795424595466328357,239810,0,'{"order":0}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(3,1,3,0,4,2,2,1795424595466444366,110051,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(4,1,4,0,2,1,3,1795424595466577161,47699,0,'{"order":3}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(5,1,5,0,4,4,3,1795424595466606564,13039,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(6,1,6,0,2,1,4,1795424595466629487,31286,0,'{"order":6}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(7,1,7,0,4,6,4,1795424595466645370,8292,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(8,1,8,0,2,1,5,1795424595466665390,82961,0,'{"order":9}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(9,1,9,0,4,8,5,1795424595466680041,62241,1,NULL,NULL,NULL,NULL,1,NULL,NULL,0,1);
INSERT INTO span VALUES(10,1,10,0,2,1,6,1795424595466755642,32527,0,'{"order":12}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(11,1,11,0,4,10,6,1795424595466774088,9144,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(12,1,12,0,2,1,7,1795424595466792315,28502,0,'{"order":15}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(13,1,13,0,4,12,7,1795424595466805795,9704,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(14,1,14,0,2,1,8,1795424595466825043,27170,0,'{"order":18}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(15,1,15,0,4,14,8,1795424595466839694,7902,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(16,1,16,0,1,NULL,9,1795424595466858993,306277,0,'{"worker":1}',NULL,NULL,NULL,NULL,NULL,NULL,1,0);
INSERT INTO span VALUES(17,1,17,0,2,16,10,1795424595466864240,26689,0,'{"order":1}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(18,1,18,0,4,17,10,1795424595466878551,7872,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(19,1,19,0,2,16,11,1795424595466895045,53088,0,'{"order":4}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(20,1,20,0,4,19,11,1795424595466918900,18107,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(21,1,21,0,2,16,12,1795424595466956555,67519,0,'{"order":7}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(22,1,22,0,4,21,12,1795424595466991947,21451,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(23,1,23,0,2,16,13,1795424595467033197,37275,0,'{"order":10}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(24,1,24,0,4,23,13,1795424595467056521,8943,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(25,1,25,0,2,16,14,1795424595467074908,27130,0,'{"order":13}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(26,1,26,0,4,25,14,1795424595467088829,8702,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(27,1,27,0,2,16,15,1795424595467106224,26028,0,'{"order":16}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(28,1,28,0,4,27,15,1795424595467119323,8322,1,NULL,NULL,NULL,NULL,1,NULL,NULL,0,1);
INSERT INTO span VALUES(29,1,29,0,2,16,16,1795424595467136258,25397,0,'{"order":19}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(30,1,30,0,4,29,16,1795424595467149417,7681,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(31,1,31,0,1,NULL,17,1795424595467167974,183999,0,'{"worker":2}',NULL,NULL,NULL,NULL,NULL,NULL,1,0);
INSERT INTO span VALUES(32,1,32,0,2,31,18,1795424595467173302,27230,0,'{"order":2}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(33,1,33,0,4,32,18,1795424595467186552,9313,1,NULL,NULL,NULL,NULL,1,NULL,NULL,0,1);
INSERT INTO span VALUES(34,1,34,0,2,31,19,1795424595467204668,26679,0,'{"order":5}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(35,1,35,0,4,34,19,1795424595467219309,7672,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(36,1,36,0,2,31,20,1795424595467235393,24536,0,'{"order":8}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(37,1,37,0,4,36,20,1795424595467248021,7612,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(38,1,38,0,2,31,21,1795424595467264015,25757,0,'{"order":11}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(39,1,39,0,4,38,21,1795424595467277554,7822,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(40,1,40,0,2,31,22,1795424595467293818,24216,0,'{"order":14}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(41,1,41,0,4,40,22,1795424595467306227,7500,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
INSERT INTO span VALUES(42,1,42,0,2,31,23,1795424595467322110,26068,0,'{"order":17}',NULL,NULL,NULL,1,NULL,NULL,1,0);
INSERT INTO span VALUES(43,1,43,0,4,42,23,1795424595467334628,8613,0,NULL,NULL,NULL,NULL,1,NULL,NULL,0,0);
CREATE TABLE link (
    span    INTEGER NOT NULL,
    follows INTEGER NOT NULL,
    PRIMARY KEY (span, follows)
) STRICT, WITHOUT ROWID;
CREATE TABLE series (
    id         INTEGER PRIMARY KEY,
    callsite   INTEGER NOT NULL,
    severity   INTEGER NOT NULL,
    event_type INTEGER NOT NULL,
    source     INTEGER NOT NULL,
    UNIQUE (callsite, severity, event_type, source)
) STRICT;
INSERT INTO series VALUES(1,-1,0,0,0);
INSERT INTO series VALUES(2,7,2,0,0);
INSERT INTO series VALUES(3,3,2,0,0);
INSERT INTO series VALUES(4,5,2,0,0);
INSERT INTO series VALUES(5,4,-1,0,0);
INSERT INTO series VALUES(6,2,-1,0,0);
INSERT INTO series VALUES(7,6,4,0,0);
INSERT INTO series VALUES(8,1,-1,0,0);
CREATE TABLE rollup (
    period    INTEGER NOT NULL, -- 60 or 3600 seconds
    start     INTEGER NOT NULL, -- unix seconds
    series    INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    errors    INTEGER NOT NULL,
    timed     INTEGER NOT NULL, -- how many had a duration
    total_ns  INTEGER NOT NULL,
    max_ns    INTEGER NOT NULL,
    durations BLOB, self_ns INTEGER,             -- bucket and count, alternately, as LEB128
    PRIMARY KEY (period, start, series)
) STRICT, WITHOUT ROWID;
INSERT INTO rollup VALUES(60,1795424580,2,1,0,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(60,1795424580,3,20,0,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(60,1795424580,4,37,0,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(60,1795424580,5,20,3,20,349983,110051,X'9d010301040204010201020701080103011a010c01',174991);
INSERT INTO rollup VALUES(60,1795424580,6,20,0,20,907567,239810,X'b70102010101030105010103010101030105010201070104011901',453783);
INSERT INTO rollup VALUES(60,1795424580,7,3,3,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(60,1795424580,8,3,0,3,1176199,685923,X'e601010c011201',588099);
INSERT INTO rollup VALUES(3600,1795424400,2,1,0,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(3600,1795424400,3,20,0,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(3600,1795424400,4,37,0,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(3600,1795424400,5,20,3,20,349983,110051,X'9d010301040204010201020701080103011a010c01',174991);
INSERT INTO rollup VALUES(3600,1795424400,6,20,0,20,907567,239810,X'b70102010101030105010103010101030105010201070104011901',453783);
INSERT INTO rollup VALUES(3600,1795424400,7,3,3,0,0,0,NULL,NULL);
INSERT INTO rollup VALUES(3600,1795424400,8,3,0,3,1176199,685923,X'e601010c011201',588099);
CREATE TABLE IF NOT EXISTS "trace" (
    id             INTEGER PRIMARY KEY,
    trace_id       BLOB NOT NULL UNIQUE,
    correlation_id TEXT
) STRICT;
INSERT INTO trace VALUES(1,X'01a207a52e0a781f8bb268e8ec5c93ab',NULL);
INSERT INTO trace VALUES(2,X'cdd131c1417f5972a2f5d738d7bed66d','order-0');
INSERT INTO trace VALUES(3,X'32ba1de7c460500bba34954bc847ca8c','order-3');
INSERT INTO trace VALUES(4,X'b9ab3f93c76056a99fe434ba16d46371','order-6');
INSERT INTO trace VALUES(5,X'a4f1a107f5e154ab813cd09663de5ccf','order-9');
INSERT INTO trace VALUES(6,X'2c158d1fc4695d1ca09154439d4b1476','order-12');
INSERT INTO trace VALUES(7,X'55fe9debc140584f9ce16cc36339d6ef','order-15');
INSERT INTO trace VALUES(8,X'ce8078951c275911b626969e0397efb1','order-18');
INSERT INTO trace VALUES(9,X'01a207a52e0a7e77b2ab77191c690cad',NULL);
INSERT INTO trace VALUES(10,X'581030f1997c57a5ad62ef69c7868712','order-1');
INSERT INTO trace VALUES(11,X'523ddf6a80045eec8a76c8469d0b3557','order-4');
INSERT INTO trace VALUES(12,X'0f5df5cac6d95033892b8abf25da0a3b','order-7');
INSERT INTO trace VALUES(13,X'378689d05c68543d945e483718e6302e','order-10');
INSERT INTO trace VALUES(14,X'f3f776c7d3de512eb8661f32d898abf7','order-13');
INSERT INTO trace VALUES(15,X'def69ef981d15d309a62a38b047d6c7e','order-16');
INSERT INTO trace VALUES(16,X'a383379480365055ab1498bdc2b60612','order-19');
INSERT INTO trace VALUES(17,X'01a207a52e0b7cb484bc152657c16ac2',NULL);
INSERT INTO trace VALUES(18,X'c77076237d875d7b9b6595268daf9c82','order-2');
INSERT INTO trace VALUES(19,X'b0b366b1f6de5135879f889b835da524','order-5');
INSERT INTO trace VALUES(20,X'a28382d6be3c50d28492018178c112a4','order-8');
INSERT INTO trace VALUES(21,X'c7151fe27270593d8727242f0d647c04','order-11');
INSERT INTO trace VALUES(22,X'93a9d33a64db58c4ab78512a9a974165','order-14');
INSERT INTO trace VALUES(23,X'd6831ca031cc5407b2df1af84ab4f2f8','order-17');
CREATE TABLE slow (
    period      INTEGER NOT NULL,
    start       INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL,
    span        INTEGER NOT NULL,
    PRIMARY KEY (period, start, duration_ns, span)
) STRICT, WITHOUT ROWID;
INSERT INTO slow VALUES(60,1795424580,25757,38);
INSERT INTO slow VALUES(60,1795424580,26028,27);
INSERT INTO slow VALUES(60,1795424580,26068,42);
INSERT INTO slow VALUES(60,1795424580,26679,34);
INSERT INTO slow VALUES(60,1795424580,26689,17);
INSERT INTO slow VALUES(60,1795424580,27130,25);
INSERT INTO slow VALUES(60,1795424580,27170,14);
INSERT INTO slow VALUES(60,1795424580,27230,32);
INSERT INTO slow VALUES(60,1795424580,28502,12);
INSERT INTO slow VALUES(60,1795424580,31286,6);
INSERT INTO slow VALUES(60,1795424580,32527,10);
INSERT INTO slow VALUES(60,1795424580,37275,23);
INSERT INTO slow VALUES(60,1795424580,47699,4);
INSERT INTO slow VALUES(60,1795424580,53088,19);
INSERT INTO slow VALUES(60,1795424580,67519,21);
INSERT INTO slow VALUES(60,1795424580,82961,8);
INSERT INTO slow VALUES(60,1795424580,183999,31);
INSERT INTO slow VALUES(60,1795424580,239810,2);
INSERT INTO slow VALUES(60,1795424580,306277,16);
INSERT INTO slow VALUES(60,1795424580,685923,1);
INSERT INTO slow VALUES(3600,1795424400,25757,38);
INSERT INTO slow VALUES(3600,1795424400,26028,27);
INSERT INTO slow VALUES(3600,1795424400,26068,42);
INSERT INTO slow VALUES(3600,1795424400,26679,34);
INSERT INTO slow VALUES(3600,1795424400,26689,17);
INSERT INTO slow VALUES(3600,1795424400,27130,25);
INSERT INTO slow VALUES(3600,1795424400,27170,14);
INSERT INTO slow VALUES(3600,1795424400,27230,32);
INSERT INTO slow VALUES(3600,1795424400,28502,12);
INSERT INTO slow VALUES(3600,1795424400,31286,6);
INSERT INTO slow VALUES(3600,1795424400,32527,10);
INSERT INTO slow VALUES(3600,1795424400,37275,23);
INSERT INTO slow VALUES(3600,1795424400,47699,4);
INSERT INTO slow VALUES(3600,1795424400,53088,19);
INSERT INTO slow VALUES(3600,1795424400,67519,21);
INSERT INTO slow VALUES(3600,1795424400,82961,8);
INSERT INTO slow VALUES(3600,1795424400,183999,31);
INSERT INTO slow VALUES(3600,1795424400,239810,2);
INSERT INTO slow VALUES(3600,1795424400,306277,16);
INSERT INTO slow VALUES(3600,1795424400,685923,1);
CREATE TABLE retention (
    id                 INTEGER PRIMARY KEY CHECK (id = 1),
    max_bytes          INTEGER NOT NULL, -- as the last start said; 0 if none has yet
    traces_removed     INTEGER NOT NULL, -- rises when rows of `trace` go
    names_removed      INTEGER NOT NULL, -- rises when rows of `name`, `callsite` or `series` go, and with each generation
    running_removed    INTEGER NOT NULL, -- rises when spans that were still open had to go
    row_generation     INTEGER NOT NULL,
    last_event         INTEGER NOT NULL,
    last_span          INTEGER NOT NULL,
    warning_generation INTEGER NOT NULL,
    last_warning       INTEGER NOT NULL
) STRICT;
INSERT INTO retention VALUES(1,268435456,0,2,0,3,1795424595467394436,43,3,1795424595467191368);
CREATE TABLE maintenance_run (
    minute      INTEGER NOT NULL, -- unix seconds
    reason      TEXT    NOT NULL,
    run         INTEGER NOT NULL,
    rows        INTEGER NOT NULL,
    freed       INTEGER NOT NULL, -- bytes, for new rows
    returned    INTEGER NOT NULL, -- bytes, to the file system
    from_at     INTEGER,
    until_at    INTEGER,
    duration_ns INTEGER NOT NULL,
    PRIMARY KEY (minute, reason, run)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_by_trace ON event (trace) WHERE trace IS NOT NULL;
CREATE INDEX warning_by_trace ON warning (trace) WHERE trace IS NOT NULL;
CREATE INDEX span_by_trace ON span (trace);
CREATE INDEX span_running ON span (run) WHERE state = 1;
CREATE VIEW telemetry_events AS
SELECT e.at * 2 + e.is_warning AS id,
       strftime('%Y-%m-%dT%H:%M:%S', (e.at - (e.at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (e.at % 1000000000 + 1000000000) % 1000000000) AS timestamp,
       coalesce((SELECT text FROM name WHERE id = e.event_type), 'log') AS event_type,
       coalesce((SELECT text FROM name WHERE id = e.source), c.target, '') AS source,
       CASE e.severity WHEN 0 THEN 'trace' WHEN 1 THEN 'debug' WHEN 2 THEN 'info'
                       WHEN 3 THEN 'warning' WHEN 4 THEN 'error' ELSE 'critical' END AS severity,
       (SELECT text FROM name WHERE id = e.category) AS category,
       (SELECT coalesce(correlation_id,
               lower(substr(hex(trace_id), 1, 8) || '-' || substr(hex(trace_id), 9, 4) || '-'
                  || substr(hex(trace_id), 13, 4) || '-' || substr(hex(trace_id), 17, 4) || '-'
                  || substr(hex(trace_id), 21)))
          FROM trace WHERE id = e.trace) AS correlation_id,
       (SELECT text FROM name WHERE id = e.tenant) AS tenant_id,
       (SELECT text FROM name WHERE id = e.actor) AS actor_id,
       coalesce(e.message, '') AS message,
       coalesce(e.payload, '{}') AS payload,
       (SELECT text FROM name WHERE id = e.status) AS status,
       e.duration_ns / 1e6 AS duration_ms,
       e.at AS at_unix_ns,
       e.span AS span_id,
       e.run AS run_id,
       nullif(c.file, '') AS file,
       nullif(c.line, 0) AS line,
       e.callsite IS NOT NULL AS is_log
  FROM (SELECT 0 AS is_warning, * FROM event UNION ALL SELECT 1, * FROM warning) AS e
  LEFT JOIN callsite AS c ON c.id = e.callsite;
CREATE VIEW logs AS
SELECT e.id, e.timestamp, e.severity AS level, e.source AS target, e.message, e.payload AS fields,
       (SELECT coalesce((SELECT text FROM name WHERE id = s.name), c.name)
          FROM span AS s JOIN callsite AS c ON c.id = s.callsite WHERE s.id = e.span_id) AS span,
       e.category, e.correlation_id, e.tenant_id, e.actor_id, e.file, e.line, e.span_id, e.run_id
  FROM telemetry_events AS e
 WHERE e.is_log;
CREATE INDEX trace_by_correlation_id ON trace (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX warning_of_errors ON warning (at) WHERE severity >= 4;
CREATE INDEX span_of_roots ON span (started_at, duration_ns) WHERE is_root;
CREATE INDEX span_of_failed ON span (started_at) WHERE is_failed;
CREATE VIEW spans AS
SELECT s.id,
       strftime('%Y-%m-%dT%H:%M:%S', (s.started_at - (s.started_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (s.started_at % 1000000000 + 1000000000) % 1000000000) AS started_at,
       s.duration_ns / 1e6 AS duration_ms,
       CASE s.state WHEN 0 THEN 'closed' WHEN 1 THEN 'running' ELSE 'interrupted' END AS state,
       coalesce((SELECT text FROM name WHERE id = s.name), c.name) AS name,
       c.target,
       CASE c.severity WHEN 0 THEN 'trace' WHEN 1 THEN 'debug' WHEN 2 THEN 'info'
                       WHEN 3 THEN 'warning' ELSE 'error' END AS severity,
       s.parent AS parent_id,
       (SELECT coalesce(correlation_id,
               lower(substr(hex(trace_id), 1, 8) || '-' || substr(hex(trace_id), 9, 4) || '-'
                  || substr(hex(trace_id), 13, 4) || '-' || substr(hex(trace_id), 17, 4) || '-'
                  || substr(hex(trace_id), 21)))
          FROM trace WHERE id = s.trace) AS correlation_id,
       (SELECT lower(hex(trace_id)) FROM trace WHERE id = s.trace) AS trace_id,
       printf('%016x', (s.own | r.span_key) - (s.own & r.span_key)) AS w3c_span_id,
       (SELECT text FROM name WHERE id = s.event_type) AS event_type,
       (SELECT text FROM name WHERE id = s.category) AS category,
       (SELECT text FROM name WHERE id = s.tenant) AS tenant_id,
       (SELECT text FROM name WHERE id = s.actor) AS actor_id,
       (SELECT text FROM name WHERE id = s.status) AS status,
       s.errors,
       coalesce(s.payload, '{}') AS payload,
       (SELECT json_group_array(follows) FROM link WHERE span = s.id) AS follows_from,
       nullif(c.file, '') AS file,
       nullif(c.line, 0) AS line,
       s.run AS run_id
  FROM span AS s JOIN callsite AS c ON c.id = s.callsite JOIN run AS r ON r.id = s.run;
CREATE VIEW maintenance AS
SELECT strftime('%Y-%m-%dT%H:%M:%SZ', minute, 'unixepoch') AS minute, reason, rows,
       freed AS freed_bytes, returned AS returned_bytes,
       strftime('%Y-%m-%dT%H:%M:%S', (from_at - (from_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (from_at % 1000000000 + 1000000000) % 1000000000) AS removed_from,
       strftime('%Y-%m-%dT%H:%M:%S', (until_at - (until_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (until_at % 1000000000 + 1000000000) % 1000000000) AS removed_until,
       duration_ns / 1e6 AS duration_ms, nullif(run, 0) AS run_id
  FROM maintenance_run;
CREATE VIEW runs AS
SELECT r.id,
       lower(substr(hex(r.uuid), 1, 8) || '-' || substr(hex(r.uuid), 9, 4) || '-' || substr(hex(r.uuid), 13, 4)
          || '-' || substr(hex(r.uuid), 17, 4) || '-' || substr(hex(r.uuid), 21)) AS run_id,
       r.pid, r.service, r.version, r.host,
       strftime('%Y-%m-%dT%H:%M:%S', (started_at - (started_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (started_at % 1000000000 + 1000000000) % 1000000000) AS started_at,
       strftime('%Y-%m-%dT%H:%M:%S', (ended_at - (ended_at % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
           || printf('.%09dZ', (ended_at % 1000000000 + 1000000000) % 1000000000) AS ended_at,
       r.outcome, r.stored,
       (SELECT coalesce(sum(count), 0) FROM shed WHERE run = r.id) AS shed
  FROM run AS r;
COMMIT;
