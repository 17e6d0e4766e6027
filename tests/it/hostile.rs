//! Entries that someone may push by mistake or on purpose, each with the field that its error must
//! name, and tricky ones that must be taken as they are. The unit tests of `job::spec` and the tests
//! of the whole intake read the same list. [`SECRET`] stands where prompts and captions stand: no
//! error may ever show it.

/// Stands in inputs and captions.
pub const SECRET: &str = "nobody-may-read-this";

fn job(fields: &str) -> Vec<u8> {
    format!(r#"{{"model":"fal-ai/flux/dev","input":{{"prompt":"{SECRET}"}},{fields}}}"#)
        .into_bytes()
}

fn model(json: &str) -> Vec<u8> {
    format!(r#"{{"model":{json},"input":{{"prompt":"{SECRET}"}}}}"#).into_bytes()
}

fn input(json: &str) -> Vec<u8> {
    format!(r#"{{"model":"fal-ai/flux/dev","input":{json}}}"#).into_bytes()
}

fn fal(fields: &str) -> Vec<u8> {
    job(&format!(r#""fal":{{{fields}}}"#))
}

fn telegram(fields: &str) -> Vec<u8> {
    job(&format!(
        r#""telegram":{{"chat_id":42,"caption":"{SECRET}",{fields}}}"#
    ))
}

fn chat(json: &str) -> Vec<u8> {
    job(&format!(r#""telegram":{{"chat_id":{json}}}"#))
}

fn nested(levels: usize) -> String {
    format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels))
}

fn with_bytes(bytes: &[u8]) -> Vec<u8> {
    let mut entry = br#"{"model":"fal-ai/flux/dev","input":{"prompt":""#.to_vec();
    entry.extend_from_slice(bytes);
    entry.extend_from_slice(br#""}}"#);
    entry
}

/// Bad entries: name, entry, and the field that the error must name.
pub fn entries() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut list = Vec::new();
    not_a_json_object(&mut list);
    ids_and_models(&mut list);
    inputs_and_users(&mut list);
    numbers_and_times(&mut list);
    fal_and_meta(&mut list);
    telegram_fields(&mut list);
    given_twice(&mut list);
    list
}

type List = Vec<(&'static str, Vec<u8>, &'static str)>;

fn not_a_json_object(list: &mut List) {
    let mut add = |name, entry: Vec<u8>| list.push((name, entry, "(entry)"));
    add("empty", Vec::new());
    add("white space", b" \r\n\t ".to_vec());
    add("null", b"null".to_vec());
    add("number", b"42".to_vec());
    add("string", format!("{SECRET:?}").into_bytes());
    add(
        "string, then garbage",
        format!("{SECRET:?} {{").into_bytes(),
    );
    add("array", br#"[{"model":"a/b","input":{}}]"#.to_vec());
    add(
        "array of pairs",
        br#"[["model","a/b"],["input",{}]]"#.to_vec(),
    );
    add(
        "job in a string",
        br#""{\"model\":\"a/b\",\"input\":{}}""#.to_vec(),
    );
    add(
        "truncated",
        br#"{"model":"fal-ai/flux/dev","input":{"pro"#.to_vec(),
    );
    add(
        "truncated before the end",
        br#"{"model":"fal-ai/flux/dev","input":{}"#.to_vec(),
    );
    add(
        "two objects",
        br#"{"model":"a/b","input":{}}{"model":"a/b","input":{}}"#.to_vec(),
    );
    add(
        "trailing garbage",
        br#"{"model":"a/b","input":{}} x"#.to_vec(),
    );
    add(
        "trailing nul",
        b"{\"model\":\"a/b\",\"input\":{}}\0".to_vec(),
    );
    add("trailing comma", br#"{"model":"a/b","input":{},}"#.to_vec());
    add(
        "trailing comma inside",
        br#"{"model":"a/b","input":{"a":[1,]}}"#.to_vec(),
    );
    add("single quotes", b"{'model':'a/b','input':{}}".to_vec());
    add("bare keys", b"{model:\"a/b\",input:{}}".to_vec());
    add("comment", br#"{"model":"a/b",/* hi */"input":{}}"#.to_vec());
    add(
        "byte order mark",
        b"\xef\xbb\xbf{\"model\":\"a/b\",\"input\":{}}".to_vec(),
    );
    add("utf-16", b"{\0\"\0m\0\"\0:\0".to_vec());
    add("broken utf-8 in the input", with_bytes(b"\xff\xfe"));
    add("overlong utf-8", with_bytes(b"\xc0\xaf"));
    add("surrogate as utf-8", with_bytes(b"\xed\xa0\x80"));
    add("cut utf-8", with_bytes(b"\xd0"));
    add("raw line break in a string", with_bytes(b"a\nb"));
    add("raw nul in a string", with_bytes(b"a\0b"));
    add("bad escape", with_bytes(br"\x41"));
    add("bad unicode escape", with_bytes(br"\u12g4"));
    add("raw line break in a key", job("\"a\nb\":1"));
    add("NaN", input(r#"{"strength":NaN}"#));
    add("Infinity", input(r#"{"strength":-Infinity}"#));
    add("leading zero", input(r#"{"seed":01}"#));
    add("plus sign", input(r#"{"seed":+1}"#));
    add("bare dot", input(r#"{"strength":.5}"#));
    add("hex number", input(r#"{"seed":0x10}"#));
    add("Python's None", job(r#""id":None"#));
    add("capital True", job(r#""repay":True"#));
    add(
        "python repr",
        b"{'model': 'a/b', 'input': {'a': True}}".to_vec(),
    );
    add("pickle", b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.".to_vec());
    add("gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec());
    add("deep and unclosed", b"[".repeat(100_000));
    add("objects, deep and unclosed", br#"{"a":"#.repeat(100_000));
    add(
        "2 MB",
        input(&format!(r#"{{"image":"{}"}}"#, "A".repeat(2_000_000))),
    );
    add(
        "2 MB of white space",
        [job(r#""id":"a""#), vec![b' '; 2_000_000]].concat(),
    );
    add(
        "2 MB of keys",
        job(r#""k":1,"#.repeat(340_000).trim_end_matches(',')),
    );
    add("one byte too long", {
        let entry = job(r#""id":"a""#);
        let missing = (1 << 20) + 1 - entry.len();
        [entry, vec![b' '; missing]].concat()
    });
}

fn ids_and_models(list: &mut List) {
    let mut id = |name, json: &str| list.push((name, job(&format!(r#""id":{json}"#)), "id"));
    id("id empty", r#""""#);
    id("id number", "8812");
    id("id true", "true");
    id("id array", r#"["a"]"#);
    id("id object", r#"{"$ne":null}"#);
    id("id of 129", &format!("{:?}", "x".repeat(129)));
    id("id with a space", r#""order 8812""#);
    id("id with a slash", r#""../../etc/passwd""#);
    id("id with a line break", r#""a\njob done job=forged""#);
    id("id with CRLF", r#""a\r\nX-Evil: 1""#);
    id("id with nul", r#""a\u0000b""#);
    id("id with a brace", r#""{fal}""#);
    id("id with a star", r#""*""#);
    id("id in Cyrillic", r#""заказ""#);
    id("id with half a surrogate pair", r#""\ud800""#);
    id("id with an escape sequence", r#""\u001b[2J""#);

    let mut bad = |name, json: &str| list.push((name, model(json), "model"));
    bad("model null", "null");
    bad("model number", "7");
    bad("model array", r#"["fal-ai","flux"]"#);
    bad("model object", r#"{"name":"fal-ai/flux"}"#);
    bad("model empty", r#""""#);
    bad("model of one part", r#""flux""#);
    bad("model legacy form", r#""123-name""#);
    bad("model slash", r#""/""#);
    bad("model leading slash", r#""/fal-ai/flux""#);
    bad("model trailing slash", r#""fal-ai/flux/""#);
    bad("model double slash", r#""fal-ai//flux""#);
    bad("model dot dot", r#""fal-ai/../flux""#);
    bad("model dot dot first", r#""../flux""#);
    bad("model dot dot last", r#""fal-ai/flux/..""#);
    bad("model dot", r#""fal-ai/./flux""#);
    bad("model escaped dots", r#""fal-ai/\u002e\u002e/flux""#);
    bad("model percent", r#""fal-ai/%2e%2e/flux""#);
    bad("model query", r#""fal-ai/flux?fal_webhook=https://evil""#);
    bad("model fragment", r#""fal-ai/flux#x""#);
    bad("model url", r#""https://evil.example/fal-ai/flux""#);
    bad("model user info", r#""a@evil.example/flux""#);
    bad("model backslash", r#""fal-ai\\..\\flux""#);
    bad("model space", r#""fal-ai/flux dev""#);
    bad("model trailing space", r#""fal-ai/flux ""#);
    bad("model line break", r#""fal-ai/flux\r\nHost: evil""#);
    bad("model nul", r#""fal-ai/flux\u0000""#);
    bad("model tab", r#""fal-ai/\tflux""#);
    bad("model full-width dots", r#""fal-ai/．．/flux""#);
    bad("model Cyrillic a", r#""fаl-ai/flux""#);
    bad("model line separator", "\"fal-ai/\u{2028}flux\"");
    bad("model right to left", "\"fal-ai/\u{202e}flux\"");
    bad("model half a surrogate pair", r#""fal-ai/\udc00""#);
    bad(
        "model of 257 bytes",
        &format!("{:?}", format!("a/{}", "b".repeat(255))),
    );
    bad("model of 1 MB", &format!("{:?}", "a/".repeat(500_000)));
    list.push((
        "model missing",
        format!(r#"{{"input":{{"prompt":"{SECRET}"}}}}"#).into_bytes(),
        "model",
    ));
    list.push(("empty object", b"{}".to_vec(), "model"));
    list.push((
        "wrong case",
        br#"{"Model":"a/b","input":{}}"#.to_vec(),
        "model",
    ));
}

fn inputs_and_users(list: &mut List) {
    let mut bad = |name, json: &str| list.push((name, input(json), "input"));
    bad("input null", "null");
    bad("input array", &format!(r#"[{{"prompt":"{SECRET}"}}]"#));
    bad("input string", &format!(r#""{{\"prompt\":\"{SECRET}\"}}""#));
    bad("input number", "1");
    bad("input false", "false");
    bad("input of 129 levels", &nested(129));
    bad(
        "input of arrays and objects",
        &format!(r#"{{"a":{}1{}}}"#, "[".repeat(128), "]".repeat(128)),
    );
    bad("input of 100000 levels", &nested(100_000));
    bad(
        "input of 100000 arrays",
        &format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
    );
    bad(
        "input deep after brackets in strings",
        &format!(r#"{{"b":"]]}}}}\"]","a":{}}}"#, nested(128)),
    );
    list.push((
        "input missing",
        br#"{"model":"fal-ai/flux/dev"}"#.to_vec(),
        "input",
    ));

    let mut user =
        |name, json: &str| list.push((name, job(&format!(r#""user_id":{json}"#)), "user_id"));
    user("user empty", r#""""#);
    user("user float", "42.0");
    user("user exponent", "1e3");
    user("user huge exponent", "1e999999");
    user("user true", "true");
    user("user array", "[42]");
    user("user object", r#"{"id":42}"#);
    user("user of 129 bytes", &format!("{:?}", "u".repeat(129)));
    user(
        "user of 65 two-byte letters",
        &format!("{:?}", "я".repeat(65)),
    );
    user("user of 129 digits", &"9".repeat(129));
    user("user with a line break", r#""42\njob done job=forged""#);
    user("user with nul", r#""4\u00002""#);
    user("user with DEL", r#""4\u007f2""#);
    user("user with NEL", r#""4\u00852""#);
    user("user with half a surrogate pair", r#""\ud83d""#);
}

fn numbers_and_times(list: &mut List) {
    let mut bad = |name, field: &'static str, json: &str| {
        list.push((name, job(&format!("{field:?}:{json}")), field));
    };
    bad("priority unknown", "priority", r#""urgent""#);
    bad("priority capital", "priority", r#""High""#);
    bad("priority number", "priority", "1");
    bad("priority empty", "priority", r#""""#);
    bad("priority nul", "priority", r#""high\u0000""#);
    bad(
        "priority long and ugly",
        "priority",
        &format!("\"{}\"", "\u{202e}\u{2028}".repeat(3000)),
    );
    bad("priority half a surrogate pair", "priority", r#""\ud800""#);
    bad("timeout zero", "timeout_s", "0");
    bad("timeout negative", "timeout_s", "-1");
    bad("timeout a day and a second", "timeout_s", "86401");
    bad("timeout 600.0", "timeout_s", "600.0");
    bad("timeout 6e2", "timeout_s", "6e2");
    bad("timeout string", "timeout_s", r#""600""#);
    bad("timeout huge", "timeout_s", &"9".repeat(5000));
    bad(
        "timeout beyond 64 bits",
        "timeout_s",
        "18446744073709552216",
    );
    bad("timeout huge exponent", "timeout_s", "1e999999");
    bad("timeout minus zero", "timeout_s", "-0");
    bad("timeout array", "timeout_s", "[600]");
    bad("attempts zero", "max_attempts", "0");
    bad("attempts 21", "max_attempts", "21");
    bad("attempts 2^32+1", "max_attempts", "4294967297");
    bad("attempts true", "max_attempts", "true");
    bad("repay number", "repay", "1");
    bad("repay string", "repay", r#""true""#);
    bad("repay array", "repay", "[]");
    bad("not_before in milliseconds", "not_before", "1795000000000");
    bad("not_before float", "not_before", "1795000000.5");
    bad(
        "not_before string",
        "not_before",
        r#""2026-11-18T00:00:00Z""#,
    );
    bad("not_before negative", "not_before", "-1");
    bad("not_before largest", "not_before", "9223372036854775807");
    bad(
        "not_before over 64 bits",
        "not_before",
        "99999999999999999999",
    );
    bad("expires_at in the year 5138", "expires_at", "99999999999");
    bad("expires_at smallest", "expires_at", "-9223372036854775808");
    bad("expires_at object", "expires_at", r#"{"s":1}"#);
    bad("via unknown", "via", r#""webhook""#);
    bad("via bool", "via", "true");
    let both = |start: u64, end: u64| job(&format!(r#""not_before":{start},"expires_at":{end}"#));
    list.push((
        "expires with its start",
        both(1_795_000_000, 1_795_000_000),
        "expires_at",
    ));
    list.push((
        "expires before its start",
        both(1_795_000_000, 1_794_999_999),
        "expires_at",
    ));
    list.push((
        "files, a member in its place",
        job(r#""input_files":{"image_url":["a",null]}"#),
        "input_files.image_url",
    ));
    list.push((
        "files, many levels",
        job(&format!(r#""input_files":{{"a":{}}}"#, nested(100_000))),
        "input_files.a",
    ));
    list.push(("files, false", job(r#""input_files":false"#), "input_files"));
}

fn fal_and_meta(list: &mut List) {
    list.push(("fal array", job(r#""fal":[]"#), "fal"));
    list.push(("fal string", job(r#""fal":"low""#), "fal"));
    list.push(("fal true", job(r#""fal":true"#), "fal"));
    list.push((
        "fal priority high",
        fal(r#""priority":"high""#),
        "fal.priority",
    ));
    list.push((
        "fal priority default",
        fal(r#""priority":"default""#),
        "fal.priority",
    ));
    list.push(("fal store_io 0", fal(r#""store_io":0"#), "fal.store_io"));
    list.push((
        "fal fallback string",
        fal(r#""fallback":"no""#),
        "fal.fallback",
    ));
    list.push((
        "fal lifetime zero",
        fal(r#""object_lifetime_s":0"#),
        "fal.object_lifetime_s",
    ));
    list.push((
        "fal lifetime negative",
        fal(r#""object_lifetime_s":-5"#),
        "fal.object_lifetime_s",
    ));
    list.push((
        "fal lifetime float",
        fal(r#""object_lifetime_s":3600.0"#),
        "fal.object_lifetime_s",
    ));
    list.push((
        "fal lifetime huge",
        fal(r#""object_lifetime_s":18446744073709551616"#),
        "fal.object_lifetime_s",
    ));
    let mut hint = |name, json: &str| {
        list.push((
            name,
            fal(&format!(r#""runner_hint":{json}"#)),
            "fal.runner_hint",
        ));
    };
    hint("hint CRLF", r#""a\r\nAuthorization: Key stolen""#);
    hint("hint line feed", r#""a\nb""#);
    hint("hint nul", r#""a\u0000""#);
    hint("hint space", r#""a b""#);
    hint("hint tab", r#""a\tb""#);
    hint("hint DEL", r#""a\u007f""#);
    hint("hint Unicode", r#""подсказка""#);
    hint("hint empty", r#""""#);
    hint("hint of 257", &format!("{:?}", "h".repeat(257)));
    hint("hint number", "5");
    hint("hint half a surrogate pair", r#""\udfff""#);
    list.push((
        "meta of 4097 bytes",
        job(&format!(r#""meta":{:?}"#, "m".repeat(4095))),
        "meta",
    ));
    list.push((
        "meta deep and long",
        job(&format!(r#""meta":{}"#, nested(100_000))),
        "meta",
    ));
    list.push((
        "meta of white space",
        job(&format!(r#""meta":[{}]"#, " ".repeat(5000))),
        "meta",
    ));
}

fn telegram_fields(list: &mut List) {
    list.push(("telegram number", job(r#""telegram":42"#), "telegram"));
    list.push(("telegram array", job(r#""telegram":[42]"#), "telegram"));
    list.push(("telegram string", job(r#""telegram":"@durov""#), "telegram"));
    list.push((
        "telegram empty",
        job(r#""telegram":{}"#),
        "telegram.chat_id",
    ));
    let mut at = |name, json: &str| list.push((name, chat(json), "telegram.chat_id"));
    at("chat null", "null");
    at("chat zero", "0");
    at("chat minus zero", "-0");
    at("chat float", "42.0");
    at("chat exponent", "4e1");
    at("chat of 53 bits", "4503599627370496");
    at("chat of 53 bits, negative", "-4503599627370496");
    at("chat over 64 bits", "-99999999999999999999");
    at("chat number in a string", r#""42""#);
    at("chat empty", r#""""#);
    at("chat only an at", r#""@""#);
    at("chat without at", r#""durov""#);
    at("chat two ats", r#""@@durov""#);
    at("chat short name", r#""@abc""#);
    at(
        "chat long name",
        &format!("{:?}", format!("@{}", "a".repeat(33))),
    );
    at("chat name with a digit first", r#""@1abcd""#);
    at("chat name with a slash", r#""@dur/ov""#);
    at("chat name in Cyrillic", r#""@дуров""#);
    at("chat name with a line break", r#""@durov\n""#);
    at("chat name with nul", r#""@durov\u0000""#);
    at("chat name of one half pair", r#""@\ud800abcd""#);
    at("chat array", "[42]");
    at("chat object", r#"{"id":42}"#);
    at("chat true", "true");

    let mut bad = |name, field: &'static str, json: &str| {
        let key = field
            .strip_prefix("telegram.")
            .expect("a field of telegram");
        list.push((name, telegram(&format!("{key:?}:{json}")), field));
    };
    bad("status zero", "telegram.status_message_id", "0");
    bad("status negative", "telegram.status_message_id", "-310");
    bad("status 2^31", "telegram.status_message_id", "2147483648");
    bad("status float", "telegram.status_message_id", "310.0");
    bad("status string", "telegram.status_message_id", r#""310""#);
    bad("thread 2^32+7", "telegram.message_thread_id", "4294967303");
    bad("thread true", "telegram.message_thread_id", "true");
    bad("reply zero", "telegram.reply_to_message_id", "0");
    bad(
        "reply object",
        "telegram.reply_to_message_id",
        r#"{"message_id":305}"#,
    );
    bad("send_as sticker", "telegram.send_as", r#""sticker""#);
    bad("send_as null in a string", "telegram.send_as", r#""null""#);
    bad("send_as array", "telegram.send_as", r#"["photo"]"#);
    bad("parse_mode lower case", "telegram.parse_mode", r#""html""#);
    bad(
        "parse_mode unknown",
        "telegram.parse_mode",
        r#""MarkdownV3""#,
    );
    bad("parse_mode empty", "telegram.parse_mode", r#""""#);
    bad("parse_mode none", "telegram.parse_mode", r#""none""#);
    bad(
        "markup string",
        "telegram.reply_markup",
        r#""{\"inline_keyboard\":[]}""#,
    );
    bad(
        "markup array",
        "telegram.reply_markup",
        r#"[[{"text":"Again"}]]"#,
    );
    bad(
        "markup over 16 KiB",
        "telegram.reply_markup",
        &format!(r#"{{"a":{:?}}}"#, "k".repeat(16_384)),
    );
    bad("markup deep", "telegram.reply_markup", &nested(100_000));
    bad("silent number", "telegram.disable_notification", "1");
    bad("protect string", "telegram.protect_content", r#""yes""#);
    bad("spoiler object", "telegram.has_spoiler", "{}");
    bad("ping unknown", "telegram.ping", r#""sometimes""#);
    bad("ping true", "telegram.ping", "true");
    bad("lang unknown", "telegram.lang", r#""de""#);
    bad("lang with region", "telegram.lang", r#""ru-RU""#);
    bad("lang capital", "telegram.lang", r#""RU""#);
    bad("lang number", "telegram.lang", "7");
    let mut caption = |name, json: &str| {
        let entry = job(&format!(r#""telegram":{{"chat_id":42,"caption":{json}}}"#));
        list.push((name, entry, "telegram.caption"));
    };
    caption("caption number", "1");
    caption("caption array", &format!("[{SECRET:?}]"));
    caption("caption object", &format!(r#"{{"text":{SECRET:?}}}"#));
    caption(
        "caption half a surrogate pair",
        &format!(r#""{SECRET}\ud83d""#),
    );
    caption("caption two low halves", r#""\ude00\ude00""#);
}

fn given_twice(list: &mut List) {
    let prompt = format!(r#"{{"prompt":"{SECRET}"}}"#);
    let whole = |fields: String| format!("{{{fields}}}").into_bytes();
    list.push(("id twice", job(r#""id":"a","id":"b""#), "id"));
    list.push(("id twice, the same", job(r#""id":"a","id":"a""#), "id"));
    list.push((
        "id twice, once escaped",
        job(r#""id":"a","\u0069d":"b""#),
        "id",
    ));
    list.push((
        "id twice, both escaped",
        job(r#""\u0069\u0064":"a","i\u0064":"b""#),
        "id",
    ));
    list.push(("id twice, once null", job(r#""id":null,"id":"b""#), "id"));
    list.push((
        "model twice",
        whole(format!(r#""model":"a/b","input":{prompt},"model":"c/d""#)),
        "model",
    ));
    list.push((
        "input twice",
        whole(format!(r#""model":"a/b","input":{prompt},"input":{{}}"#)),
        "input",
    ));
    list.push((
        "input thrice",
        whole(r#""model":"a/b","input":{},"input":{},"input":{}"#.into()),
        "input",
    ));
    list.push((
        "user twice",
        job(r#""user_id":42,"user_id":"42""#),
        "user_id",
    ));
    list.push(("meta twice", job(r#""meta":1,"meta":2"#), "meta"));
    list.push((
        "telegram twice",
        job(r#""telegram":{"chat_id":1},"telegram":{"chat_id":2}"#),
        "telegram",
    ));
    list.push((
        "telegram twice, once null",
        job(r#""telegram":{"chat_id":1},"telegram":null"#),
        "telegram",
    ));
    list.push((
        "chat twice",
        telegram(r#""chat_id":43"#),
        "telegram.chat_id",
    ));
    list.push((
        "caption twice",
        telegram(&format!(r#""caption":"{SECRET}2""#)),
        "telegram.caption",
    ));
    list.push((
        "lang twice, escaped",
        telegram(r#""lang":"en","l\u0061ng":"ru""#),
        "telegram.lang",
    ));
    list.push((
        "fal priority twice",
        fal(r#""priority":"low","priority":"normal""#),
        "fal.priority",
    ));
    list.push((
        "hint twice",
        fal(r#""runner_hint":"a","runner_hint":"b\r\n""#),
        "fal.runner_hint",
    ));
}

/// Tricky entries that break no rule: name and entry.
pub fn good_entries() -> Vec<(&'static str, Vec<u8>)> {
    let mut list: Vec<(&'static str, Vec<u8>)> = vec![
        ("smallest", br#"{"model":"a/b","input":{}}"#.to_vec()),
        (
            "the contract's example, without files",
            EXAMPLE.as_bytes().to_vec(),
        ),
        (
            "white space everywhere",
            b"\r\n\t {\n \"model\" :\t\"a/b\" ,\r\n\"input\" : { } \n}\n ".to_vec(),
        ),
        ("exactly 1 MiB", {
            let (head, tail) = (r#"{"model":"a/b","input":{"image":""#, r#""}}"#);
            let image = "A".repeat((1 << 20) - head.len() - tail.len());
            format!("{head}{image}{tail}").into_bytes()
        }),
        ("no telegram", job(r#""id":"events-only""#)),
        (
            "escaped keys",
            br#"{"\u006dodel":"a\/b","inpu\u0074":{},"\u0069d":"\u0061"}"#.to_vec(),
        ),
        (
            "unknown fields",
            job(
                r#""ID":7,"identity":null,"":1,"Telegram":[],"x":{"id":1,"id":2},"x":3,"model ":5"#,
            ),
        ),
        (
            "an unknown key of half a surrogate pair",
            job(r#""\ud800":1,"id":"a""#),
        ),
        ("an unknown key of one letter", job(r#""\u0069":1"#)),
        (
            "an unknown field of 100000 levels",
            job(&format!(r#""x":{}"#, nested(100_000))),
        ),
        (
            "null optionals",
            job(concat!(
                r#""id":null,"user_id":null,"priority":null,"timeout_s":null,"max_attempts":null,"repay":null,"#,
                r#""not_before":null,"expires_at":null,"via":null,"input_files":null,"fal":null,"meta":null,"#,
                r#""telegram":null"#
            )),
        ),
        (
            "null optionals inside",
            job(concat!(
                r#""fal":{"priority":null,"store_io":null,"fallback":null,"object_lifetime_s":null,"#,
                r#""runner_hint":null},"telegram":{"chat_id":-1,"status_message_id":null,"#,
                r#""message_thread_id":null,"reply_to_message_id":null,"send_as":null,"caption":null,"#,
                r#""parse_mode":null,"reply_markup":null,"disable_notification":null,"protect_content":null,"#,
                r#""has_spoiler":null,"ping":null,"lang":null}"#
            )),
        ),
        ("empty fal", job(r#""fal":{}"#)),
        (
            "unknown fields inside",
            telegram(r#""chat":0,"CHAT_ID":0,"lang_":"de","message_effect_id":1"#),
        ),
        (
            "user number of 128 digits",
            job(&format!(r#""user_id":{}"#, "9".repeat(128))),
        ),
        (
            "user of 128 bytes",
            job(&format!(r#""user_id":"{}""#, "я".repeat(64))),
        ),
        ("user zero", job(r#""user_id":-0"#)),
        (
            "user with colons and braces",
            job(r#""user_id":"{a}:running:*""#),
        ),
        ("id of 128", job(&format!(r#""id":"{}""#, "x".repeat(128)))),
        ("id of every kind of character", job(r#""id":"Az09._:-""#)),
        (
            "model of 256 bytes",
            model(&format!("\"a/{}\"", "b".repeat(254))),
        ),
        ("model of dots", model(r#""a../...b/c.""#)),
        ("model of a workflow", model(r#""workflows/me/my-flow""#)),
        (
            "largest numbers",
            job(r#""timeout_s":86400,"max_attempts":20"#),
        ),
        ("smallest numbers", job(r#""timeout_s":1,"max_attempts":1"#)),
        ("times of the past", job(r#""not_before":0,"expires_at":1"#)),
        (
            "meta of 4096 bytes",
            job(&format!(r#""meta":"{}""#, "m".repeat(4094))),
        ),
        (
            "meta deep",
            job(&format!(
                r#""meta":{}{}"#,
                "[".repeat(2048),
                "]".repeat(2048)
            )),
        ),
        ("meta false", job(r#""meta":false"#)),
        (
            "meta with numbers",
            job(r#""meta":[1e999999,-0,18446744073709551616,"\ud800"]"#),
        ),
        ("largest chat", chat("4503599627370495")),
        ("smallest chat", chat("-4503599627370495")),
        ("a supergroup", chat("-1001234567890")),
        ("a named chat", chat(r#""@durov_1""#)),
        ("a named chat, escaped", chat(r#""\u0040durov""#)),
        (
            "largest message id",
            telegram(r#""status_message_id":2147483647"#),
        ),
        (
            "an empty caption",
            job(r#""telegram":{"chat_id":1,"caption":""}"#),
        ),
        (
            "a caption with everything",
            job(r#""telegram":{"chat_id":1,"caption":"\u0000\n😀\ud83d\ude00"}"#),
        ),
        ("an empty keyboard", telegram(r#""reply_markup":{}"#)),
        (
            "hint of 256",
            fal(&format!(r#""runner_hint":"{}""#, "~".repeat(256))),
        ),
    ];
    for (name, json) in GOOD_INPUTS {
        list.push((name, input(json)));
    }
    list.push(("input of 128 levels", input(&nested(128))));
    list.push((
        "input wide",
        input(&format!(r#"{{"a":[{}{{}}]}}"#, "{},[],".repeat(10_000))),
    ));
    list
}

/// Inputs that must reach fal byte for byte.
pub const GOOD_INPUTS: [(&str, &str); 9] = [
    (
        "input with a 64-bit seed",
        r#"{"seed":18446744073709551615,"a":-9223372036854775808}"#,
    ),
    (
        "input with a longer number",
        r#"{"seed":158603074658846355120000000000001}"#,
    ),
    (
        "input with exact decimals",
        r#"{"strength":0.1000000000000000055511151231257827,"b":1.0,"c":1E+2}"#,
    ),
    (
        "input with huge exponents",
        r#"{"a":1e999999,"b":-1e-999999,"c":-0,"d":-0.0}"#,
    ),
    (
        "input with Unicode",
        "{\"prompt\":\"кот 😀 \u{2028}\u{202e} e\u{301}\"}",
    ),
    (
        "input with escapes",
        r#"{"prompt":"\u043a\u043e\u0442 \ud83d\ude00 \/ \u0000 \r\n"}"#,
    ),
    (
        "input with half surrogate pairs",
        r#"{"prompt":"\ud800 \udc00","\udfff":1}"#,
    ),
    (
        "input with the same key twice",
        r#"{"a":1,"a":2,"model":3,"id":null}"#,
    ),
    (
        "input with brackets in strings",
        r#"{"a":"[[[[{{{{\"[[\\","[{\\":"]}"}"#,
    ),
];

/// The example of contract section 1 without `input_files`.
pub const EXAMPLE: &str = r#"{
  "id": "order-8812",
  "model": "fal-ai/flux/dev",
  "input": {"prompt": "a cat in the rain", "image_size": "square_hd"},
  "user_id": 42,
  "priority": "default",
  "timeout_s": 600,
  "max_attempts": 3,
  "not_before": 1795000000,
  "expires_at": 1795003600,
  "via": "queue",
  "fal": {"priority": "normal", "store_io": false, "fallback": false, "object_lifetime_s": 86400},
  "meta": {"order": 8812},
  "telegram": {
    "chat_id": 42,
    "status_message_id": 310,
    "message_thread_id": 7,
    "reply_to_message_id": 305,
    "send_as": "auto",
    "caption": "<b>Done</b>",
    "parse_mode": "HTML",
    "reply_markup": {"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]},
    "disable_notification": false,
    "protect_content": false,
    "has_spoiler": false,
    "ping": "auto",
    "lang": "ru"
  }
}"#;
