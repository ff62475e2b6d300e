-- A store as an l0 of schema 1 left it.
PRAGMA application_id = 1815114853;
PRAGMA user_version = 1;
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
) STRICT;
INSERT INTO run VALUES(1,X'01a2070adf607757ae9f2bb28e7f85cb',X'a16b007865e34600abbc8c68631f65d8',30463,2719982,'fixture','0.0.1','vm',1795414482870829383,1795414482879336996,'clean',104);
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
) STRICT;
INSERT INTO name VALUES(1,'acme');
INSERT INTO name VALUES(2,'billing');
INSERT INTO name VALUES(3,'ok');
INSERT INTO name VALUES(4,'shop.closed');
INSERT INTO name VALUES(5,'fixture');
CREATE TABLE callsite (
    id          INTEGER PRIMARY KEY,
    kind        INTEGER NOT NULL, -- 1 event, 2 span, 3 log
    severity    INTEGER NOT NULL,
    target      TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    module_path TEXT    NOT NULL,
    file        TEXT    NOT NULL,
    line        INTEGER NOT NULL,
    UNIQUE (target, line, file, name, module_path, kind, severity)
) STRICT;
INSERT INTO callsite VALUES(1,2,2,'fix','worker','fix','src/main.rs',7);
INSERT INTO callsite VALUES(2,2,2,'fix','take','fix','src/main.rs',11);
INSERT INTO callsite VALUES(3,1,2,'fix','event src/main.rs:12','fix','src/main.rs',12);
INSERT INTO callsite VALUES(4,2,2,'fix','charge','fix','src/main.rs',14);
INSERT INTO callsite VALUES(5,1,4,'fix','event src/main.rs:15','fix','src/main.rs',15);
INSERT INTO callsite VALUES(6,1,2,'fix','event src/main.rs:17','fix','src/main.rs',17);
INSERT INTO callsite VALUES(7,1,2,'fix','event src/main.rs:15','fix','src/main.rs',15);
CREATE TABLE trace (
    id             INTEGER PRIMARY KEY,
    trace_id       BLOB NOT NULL UNIQUE,
    correlation_id TEXT UNIQUE
) STRICT;
INSERT INTO trace VALUES(1,X'01a2070adfb775d4b879ba10d469ec29',NULL);
INSERT INTO trace VALUES(2,X'01a2070adfb77fd8b13d8d4e85770ffd',NULL);
INSERT INTO trace VALUES(3,X'01a2070adfb774ffa96d380ac4a83d5d',NULL);
INSERT INTO trace VALUES(4,X'01a2070adfbb75829b6d5d4cb337b7b2','order-0');
INSERT INTO trace VALUES(5,X'01a2070adfbb75829b6d5d4dbac54d2a','order-1');
INSERT INTO trace VALUES(6,X'01a2070adfbb75829b6d5d4ef88ddd7b','order-2');
INSERT INTO trace VALUES(7,X'01a2070adfbb75829b6d5d4f4492824a','order-3');
INSERT INTO trace VALUES(8,X'01a2070adfbb75829b6d5d50c15888b2','order-4');
INSERT INTO trace VALUES(9,X'01a2070adfbc76b8b6bb6ce2b3016d46','order-5');
INSERT INTO trace VALUES(10,X'01a2070adfbc76b8b6bb6ce30243c78f','order-6');
INSERT INTO trace VALUES(11,X'01a2070adfbc76b8b6bb6ce4c073887a','order-7');
INSERT INTO trace VALUES(12,X'01a2070adfbc76b8b6bb6ce5477a7743','order-8');
INSERT INTO trace VALUES(13,X'01a2070adfbc76b8b6bb6ce620314fd9','order-9');
INSERT INTO trace VALUES(14,X'01a2070adfbc76b8b6bb6ce70e82ab54','order-10');
INSERT INTO trace VALUES(15,X'01a2070adfbc76b8b6bb6ce898cb9a37','order-11');
INSERT INTO trace VALUES(16,X'01a2070adfbc76b8b6bb6ce9929ebbc7','order-12');
INSERT INTO trace VALUES(17,X'01a2070adfbc76b8b6bb6ceaaeca69b3','order-13');
INSERT INTO trace VALUES(18,X'01a2070adfbc76b8b6bb6ceb15a3066f','order-14');
INSERT INTO trace VALUES(19,X'01a2070adfbd7711a91c43e50e46f477','order-15');
INSERT INTO trace VALUES(20,X'01a2070adfbd7711a91c43e683f0fde7','order-16');
INSERT INTO trace VALUES(21,X'01a2070adfbd7711a91c43e78ea88eb7','order-17');
INSERT INTO trace VALUES(22,X'01a2070adfbd7711a91c43e8b1d2f081','order-18');
INSERT INTO trace VALUES(23,X'01a2070adfbd7711a91c43e9ab6869da','order-19');
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
INSERT INTO event VALUES(1795414482871720601,1,2,3,4,4,'order placed','{"items":1}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482871802710,1,2,6,4,4,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482871844556,1,2,3,6,5,'order placed','{"items":2}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482871867256,1,2,7,7,5,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482871878631,1,2,6,6,5,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482871899088,1,2,3,8,6,'order placed','{"items":3}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482871908190,1,2,7,9,6,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482871917523,1,2,6,8,6,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482871946491,1,2,3,10,7,'order placed','{"items":4}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482871962642,1,2,7,11,7,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482871979114,1,2,6,10,7,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872009995,1,2,3,12,8,'order placed','{"items":5}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872024274,1,2,7,13,8,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872039074,1,2,6,12,8,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872065619,1,2,3,14,9,'order placed','{"items":1}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872076473,1,2,7,15,9,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872128693,1,2,6,14,9,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872175314,1,2,3,16,10,'order placed','{"items":2}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872187581,1,2,7,17,10,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872201449,1,2,6,16,10,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872232240,1,2,3,18,11,'order placed','{"items":3}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872262280,1,2,6,18,11,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872290877,1,2,3,20,12,'order placed','{"items":4}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872300650,1,2,7,21,12,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872310093,1,2,6,20,12,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872329219,1,2,3,22,13,'order placed','{"items":5}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872338210,1,2,7,23,13,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872347042,1,2,6,22,13,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872368000,1,2,3,24,14,'order placed','{"items":1}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872380567,1,2,7,25,14,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872393974,1,2,6,24,14,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872425055,1,2,3,26,15,'order placed','{"items":2}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872439815,1,2,7,27,15,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872455456,1,2,6,26,15,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872488860,1,2,3,28,16,'order placed','{"items":3}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872501777,1,2,7,29,16,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872515886,1,2,6,28,16,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872545175,1,2,3,30,17,'order placed','{"items":4}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872557261,1,2,7,31,17,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872571149,1,2,6,30,17,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872600358,1,2,3,32,18,'order placed','{"items":5}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872627334,1,2,6,32,18,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872655691,1,2,3,34,19,'order placed','{"items":1}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872668518,1,2,7,35,19,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872681736,1,2,6,34,19,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872709853,1,2,3,36,20,'order placed','{"items":2}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872722280,1,2,7,37,20,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872734596,1,2,6,36,20,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872760800,1,2,3,38,21,'order placed','{"items":3}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872772546,1,2,7,39,21,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872785023,1,2,6,38,21,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872811007,1,2,3,40,22,'order placed','{"items":4}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872822042,1,2,7,41,22,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872835990,1,2,6,40,22,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872866951,1,2,3,42,23,'order placed','{"items":5}',NULL,NULL,NULL,1,NULL,NULL,NULL);
INSERT INTO event VALUES(1795414482872881711,1,2,7,43,23,'charged',NULL,NULL,NULL,NULL,1,NULL,NULL,1500000);
INSERT INTO event VALUES(1795414482872898353,1,2,6,42,23,'order packed',NULL,NULL,NULL,NULL,1,NULL,3,NULL);
INSERT INTO event VALUES(1795414482872995552,1,2,NULL,NULL,NULL,NULL,'{"orders":20}',4,5,NULL,NULL,NULL,NULL,NULL);
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
INSERT INTO warning VALUES(1795414482871759333,1,4,5,5,4,'card refused','{"code":402}',NULL,NULL,2,1,NULL,NULL,NULL);
INSERT INTO warning VALUES(1795414482872245728,1,4,5,19,11,'card refused','{"code":402}',NULL,NULL,2,1,NULL,NULL,NULL);
INSERT INTO warning VALUES(1795414482872613836,1,4,5,33,18,'card refused','{"code":402}',NULL,NULL,2,1,NULL,NULL,NULL);
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
) STRICT;
INSERT INTO span VALUES(1,1,1,0,1,NULL,1,1795414482871557545,1352854,0,'{"worker":0}',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO span VALUES(2,1,2,0,1,NULL,2,1795414482871623112,1290561,0,'{"worker":1}',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO span VALUES(3,1,3,0,1,NULL,3,1795414482871630352,1286395,0,'{"worker":2}',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO span VALUES(4,1,4,0,2,1,4,1795414482871695739,117485,0,'{"order":0,"customer":0}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(5,1,5,0,4,4,4,1795414482871738395,35697,1,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(6,1,6,0,2,2,5,1795414482871835053,47874,0,'{"order":1,"customer":1}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(7,1,7,0,4,6,5,1795414482871849372,23481,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(8,1,8,0,2,3,6,1795414482871893701,30060,0,'{"order":2,"customer":2}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(9,1,9,0,4,8,6,1795414482871903114,9512,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(10,1,10,0,2,1,7,1795414482871937849,47363,0,'{"order":3,"customer":3}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(11,1,11,0,4,10,7,1795414482871952529,18504,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(12,1,12,0,2,2,8,1795414482872000142,44539,0,'{"order":4,"customer":0}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(13,1,13,0,4,12,8,1795414482872016804,14349,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(14,1,14,0,2,3,9,1795414482872059040,87056,0,'{"order":5,"customer":1}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(15,1,15,0,4,14,9,1795414482872070496,11915,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(16,1,16,0,2,1,10,1795414482872166643,40564,0,'{"order":6,"customer":2}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(17,1,17,0,4,16,10,1795414482872180751,13178,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(18,1,18,0,2,2,11,1795414482872222507,46592,0,'{"order":7,"customer":3}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(19,1,19,0,4,18,11,1795414482872238007,15901,1,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(20,1,20,0,2,3,12,1795414482872284369,29990,0,'{"order":8,"customer":0}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(21,1,21,0,4,20,12,1795414482872295394,10013,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(22,1,22,0,2,1,13,1795414482872323992,27165,0,'{"order":9,"customer":1}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(23,1,23,0,4,22,13,1795414482872333104,9422,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(24,1,24,0,2,2,14,1795414482872360840,37991,0,'{"order":10,"customer":2}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(25,1,25,0,4,24,14,1795414482872373417,14079,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(26,1,26,0,2,3,15,1795414482872413490,48234,0,'{"order":11,"customer":3}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(27,1,27,0,4,26,15,1795414482872431904,15301,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(28,1,28,0,2,1,16,1795414482872477986,43728,0,'{"order":12,"customer":0}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(29,1,29,0,4,28,16,1795414482872494628,13658,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(30,1,30,0,2,2,17,1795414482872535982,40494,0,'{"order":13,"customer":1}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(31,1,31,0,4,30,17,1795414482872550472,13488,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(32,1,32,0,2,3,18,1795414482872590615,42546,0,'{"order":14,"customer":2}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(33,1,33,0,4,32,18,1795414482872606046,14088,1,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(34,1,34,0,2,1,19,1795414482872646900,40263,0,'{"order":15,"customer":3}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(35,1,35,0,4,34,19,1795414482872660678,13818,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(36,1,36,0,2,2,20,1795414482872700581,39111,0,'{"order":16,"customer":0}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(37,1,37,0,4,36,20,1795414482872715480,12677,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(38,1,38,0,2,3,21,1795414482872753040,37360,0,'{"order":17,"customer":1}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(39,1,39,0,4,38,21,1795414482872766018,12546,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(40,1,40,0,2,1,22,1795414482872803397,38241,0,'{"order":18,"customer":2}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(41,1,41,0,4,40,22,1795414482872816044,12606,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(42,1,42,0,2,2,23,1795414482872858741,45660,0,'{"order":19,"customer":3}',NULL,NULL,NULL,1,NULL,NULL);
INSERT INTO span VALUES(43,1,43,0,4,42,23,1795414482872873019,16853,0,NULL,NULL,NULL,NULL,1,NULL,NULL);
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
INSERT INTO series VALUES(4,0,2,4,5);
INSERT INTO series VALUES(5,1,0,0,0);
INSERT INTO series VALUES(6,6,2,0,0);
INSERT INTO series VALUES(7,4,0,0,0);
INSERT INTO series VALUES(8,2,0,0,0);
INSERT INTO series VALUES(9,5,4,0,0);
CREATE TABLE rollup (
    period    INTEGER NOT NULL, -- 60 or 3600 seconds
    start     INTEGER NOT NULL, -- unix seconds
    series    INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    errors    INTEGER NOT NULL,
    timed     INTEGER NOT NULL, -- how many had a duration
    total_ns  INTEGER NOT NULL,
    max_ns    INTEGER NOT NULL,
    durations BLOB,             -- bucket and count, alternately, as LEB128
    PRIMARY KEY (period, start, series)
) STRICT, WITHOUT ROWID;
INSERT INTO rollup VALUES(60,1795414440,2,17,0,17,25500000,1500000,X'960211');
INSERT INTO rollup VALUES(60,1795414440,3,20,0,0,0,0,NULL);
INSERT INTO rollup VALUES(60,1795414440,4,1,0,0,0,0,NULL);
INSERT INTO rollup VALUES(60,1795414440,5,3,0,3,3929810,1352854,X'9302020101');
INSERT INTO rollup VALUES(60,1795414440,6,20,0,0,0,0,NULL);
INSERT INTO rollup VALUES(60,1795414440,7,20,3,20,301086,35697,X'a201020101040101030101010301020101010102010101020104010b01');
INSERT INTO rollup VALUES(60,1795414440,8,20,0,20,932316,117485,X'ba010103020503010401010102010201030e010701');
INSERT INTO rollup VALUES(60,1795414440,9,3,3,0,0,0,NULL);
INSERT INTO rollup VALUES(3600,1795413600,2,17,0,17,25500000,1500000,X'960211');
INSERT INTO rollup VALUES(3600,1795413600,3,20,0,0,0,0,NULL);
INSERT INTO rollup VALUES(3600,1795413600,4,1,0,0,0,0,NULL);
INSERT INTO rollup VALUES(3600,1795413600,5,3,0,3,3929810,1352854,X'9302020101');
INSERT INTO rollup VALUES(3600,1795413600,6,20,0,0,0,0,NULL);
INSERT INTO rollup VALUES(3600,1795413600,7,20,3,20,301086,35697,X'a201020101040101030101010301020101010102010101020104010b01');
INSERT INTO rollup VALUES(3600,1795413600,8,20,0,20,932316,117485,X'ba010103020503010401010102010201030e010701');
INSERT INTO rollup VALUES(3600,1795413600,9,3,3,0,0,0,NULL);
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
  FROM span AS s JOIN callsite AS c ON c.id = s.callsite;
CREATE VIEW runs AS
SELECT r.id,
       lower(substr(hex(r.uuid), 1, 8) || '-' || substr(hex(r.uuid), 9, 4) || '-' || substr(hex(r.uuid), 13, 4)
          || '-' || substr(hex(r.uuid), 17, 4) || '-' || substr(hex(r.uuid), 21)) AS run_id,
       r.pid, r.service, r.version, r.host,
       strftime('%Y-%m-%dT%H:%M:%S', r.started_at / 1000000000, 'unixepoch') || printf('.%09dZ', r.started_at % 1000000000) AS started_at,
       strftime('%Y-%m-%dT%H:%M:%S', r.ended_at / 1000000000, 'unixepoch') || printf('.%09dZ', r.ended_at % 1000000000) AS ended_at,
       r.outcome, r.stored,
       (SELECT coalesce(sum(count), 0) FROM shed WHERE run = r.id) AS shed
  FROM run AS r;
COMMIT;
