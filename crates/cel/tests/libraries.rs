//! Every function of the Kubernetes libraries, and its errors.

mod common;

use common::{environment, table};
use keles_cel::{Activation, Authorizer, Budget, Check, Decision, Environment, Type, Value};

#[test]
fn lists() {
    table(
        &environment(),
        &[
            ("[1, 2, 2].isSorted()", "true"),
            ("['b', 'a'].isSorted()", "false"),
            ("[1, 2].sum()", "3"),
            ("[1.5, 2.0].sum()", "3.5"),
            ("[].sum()", "0"),
            ("[duration('1s'), duration('2s')].sum() == duration('3s')", "true"),
            ("[3, 1].min() + [3, 1].max()", "4"),
            ("x.list.filter(v, v > 5).min()", "!min called on empty list"),
            ("x.list.filter(v, v > 5).max()", "!max called on empty list"),
            ("[1, 2, 1].indexOf(1)", "0"),
            ("[1, 2, 1].lastIndexOf(1)", "2"),
            ("[1].indexOf(9)", "-1"),
            ("x.list.indexOf(2)", "2"),
            ("[1, 2, 3].slice(1, 3)", "[2,3]"),
            ("[1].slice(-1, 1)", "!cannot slice(-1, 1), negative indexes not supported"),
            ("[1].slice(1, 0)", "!cannot slice(1, 0), start index must be less than or equal to end index"),
            ("[1].slice(0, 2)", "!cannot slice(0, 2), list is length 1"),
            ("[[1], [2, 3]].flatten()", "[1,2,3]"),
            (
                "dyn([1, [2, [3]]]).flatten(2)",
                "compile: ERROR: <input>:1:9: expected type 'int' but found 'list(dyn)'\n | dyn([1, [2, [3]]]).flatten(2)\n | ........^\nERROR: <input>:1:13: expected type 'int' but found 'list(int)'\n | dyn([1, [2, [3]]]).flatten(2)\n | ............^",
            ),
            ("[[[1]], [[2]]].flatten(2)", "[1,2]"),
            ("[[1]].flatten(-1)", "!level must be non-negative"),
            ("[3, 1, 2].sort()", "[1,2,3]"),
            ("x.list.sort()", "[1,2,3]"),
            ("['b', 'a'].sort()", "[\"a\",\"b\"]"),
            ("x.items.sort()", "!list elements must be comparable"),
            ("x.items.sortBy(i, i.name).map(i, i.name)", "[\"one\",\"two\"]"),
            ("[1, 3, 2].sortBy(v, -v)", "[3,2,1]"),
            ("[1, 2, 1].distinct()", "[1,2]"),
            ("[1, 2].reverse()", "[2,1]"),
            ("lists.range(3)", "[0,1,2]"),
            ("lists.range(-1)", "!lists.range: size must be non-negative, got -1"),
            ("lists.range(20000000)", "!lists.range: size 20000000 exceeds maximum allowed (10000000)"),
            ("lists.range(5000000)", "!operation cancelled: actual cost limit exceeded"),
        ],
    );
}

#[test]
fn strings() {
    table(
        &environment(),
        &[
            ("'hello'.charAt(4)", "\"o\""),
            ("'hello'.charAt(5)", "\"\""),
            ("'hello'.charAt(6)", "!index out of range: 6"),
            ("'hello mellow'.indexOf('ello')", "1"),
            ("'hello mellow'.indexOf('ello', 2)", "7"),
            ("'hello'.indexOf('')", "0"),
            ("'hello'.indexOf('z')", "-1"),
            ("'hello'.indexOf('l', -1)", "!index out of range: -1"),
            ("'hello mellow'.lastIndexOf('ello')", "7"),
            ("'hello mellow'.lastIndexOf('ello', 6)", "1"),
            ("['a', 'b'].join()", "\"ab\""),
            ("['a', 'b'].join('-')", "\"a-b\""),
            ("'TacoCat É'.lowerAscii()", "\"tacocat É\""),
            ("'taco é'.upperAscii()", "\"TACO é\""),
            ("'hello hello'.replace('he', 'we')", "\"wello wello\""),
            ("'hello hello'.replace('he', 'we', 1)", "\"wello hello\""),
            ("'hello'.replace('he', 'we', 0)", "\"hello\""),
            ("'a b c'.split(' ')", "[\"a\",\"b\",\"c\"]"),
            ("'a b c'.split(' ', 2)", "[\"a\",\"b c\"]"),
            ("'a b c'.split(' ', 0)", "[]"),
            ("'abc'.split('')", "[\"a\",\"b\",\"c\"]"),
            ("'tacocat'.substring(4)", "\"cat\""),
            ("'tacocat'.substring(0, 4)", "\"taco\""),
            ("'tacocat'.substring(-1)", "!index out of range: -1"),
            ("'tacocat'.substring(2, 1)", "!invalid substring range. start: 2, end: 1"),
            ("'  a  '.trim()", "\"a\""),
            ("strings.quote('a\"b\\n')", r#""\"a\\\"b\\n\"""#),
            ("'%s is %d and %.2f'.format(['a', 1, 2.5])", "\"a is 1 and 2.50\""),
            ("'%x %X %o %b %e %%'.format([255, 255, 8, 5, 1234.5])", "\"ff FF 10 101 1.234500e+03 %\""),
            ("'%s'.format([[1, 'a', {'k': true}]])", "\"[1, a, {k: true}]\""),
            ("'%s %s'.format(['a'])", "!index 1 out of range"),
            ("'%y'.format([1])", "!could not parse formatting clause: unrecognized formatting clause \"y\""),
            ("'abc'.reverse()", "compile: ERROR: <input>:1:14: found no matching overload for 'reverse' applied to 'string.()'\n | 'abc'.reverse()\n | .............^"),
        ],
    );
}

#[test]
fn regular_expressions() {
    table(
        &environment(),
        &[
            ("'abc 123'.find('[0-9]+')", "\"123\""),
            ("'abc'.find('[0-9]+')", "\"\""),
            ("'1 2 3'.findAll('[0-9]')", "[\"1\",\"2\",\"3\"]"),
            ("'1 2 3'.findAll('[0-9]', 2)", "[\"1\",\"2\"]"),
            (r"'٣'.matches('^\\d$')", "false"),
            (r"'7'.matches('^\\d$')", "true"),
            ("'aé'.matches('^a.$')", "true"),
            (r"'a[b'.matches('^[a[b]+$') && 'a&&b'.matches('^[a&&b]+$') && ']'.matches('^[]]$') && !']'.matches('^[^]]$')", "true"),
            (r"'a.b'.matches(r'^\Qa.b\E$') && !'axb'.matches(r'^\Qa.b\E$')", "true"),
            (r"'x٣'.matches(r'^[\D]+$') && 'é '.matches(r'^\W+$') && 'a-b'.matches(r'\bb') && '5'.matches('^[[:digit:]]$')", "true"),
            ("'x'.matches(x.names[0] + '{1000}{1000}{1000}') || true", "true"),
        ],
    );
}

#[test]
fn urls() {
    table(
        &environment(),
        &[
            ("url('https://u:p@example.com:80/a%20b/?k=v&k=w#f').getHost()", "\"example.com:80\""),
            ("url('https://example.com:80/').getHostname()", "\"example.com\""),
            ("url('https://[::1]:80/').getHostname()", "\"::1\""),
            ("url('https://example.com:80/').getPort()", "\"80\""),
            ("url('https://example.com/').getPort()", "\"\""),
            ("url('https://example.com/').getScheme()", "\"https\""),
            ("url('https://example.com/a%20b').getEscapedPath()", "\"/a%20b\""),
            ("url('https://example.com/?k=v&k=w&z').getQuery()", "{\"k\":[\"v\",\"w\"],\"z\":[\"\"]}"),
            ("url('/path').getEscapedPath()", "\"/path\""),
            ("isURL('https://example.com')", "true"),
            ("isURL('../relative')", "false"),
            ("url('relative')", "!URL parse error during conversion from string: parse \"relative\": invalid URI for request"),
            ("url('https://a/') == url('https://a/')", "true"),
        ],
    );
}

#[test]
fn quantities() {
    table(
        &environment(),
        &[
            ("isQuantity('1.5Gi') && !isQuantity('abc')", "true"),
            ("quantity('abc')", "!quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
            ("quantity('1Gi').isGreaterThan(quantity('1G'))", "true"),
            ("quantity('1').isLessThan(quantity('2'))", "true"),
            ("quantity('200M').compareTo(quantity('0.2G'))", "0"),
            ("quantity('50k').add(quantity('1')) == quantity('50001')", "true"),
            ("quantity('50k').add(20) == quantity('50020')", "true"),
            ("quantity('50k').sub(quantity('50k')).sign()", "0"),
            ("quantity('-1').sign()", "-1"),
            ("quantity('50k').asInteger()", "50000"),
            ("quantity('1500m').isInteger()", "false"),
            ("quantity('1500m').asInteger()", "!cannot convert value to integer"),
            ("quantity('1500m').asApproximateFloat()", "1.5"),
        ],
    );
}

#[test]
fn addresses() {
    table(
        &environment(),
        &[
            ("isIP('127.0.0.1') && isIP('::1') && !isIP('1.2.3') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')", "true"),
            ("ip('1.2.3')", "!IP Address \"1.2.3\" parse error during conversion from string: ParseAddr(\"1.2.3\"): unable to parse IP"),
            ("ip('127.0.0.1').family() + ip('::1').family()", "10"),
            ("ip('127.0.0.1').isLoopback() && ip('0.0.0.0').isUnspecified() && ip('169.254.1.1').isLinkLocalUnicast() && ip('224.0.0.1').isLinkLocalMulticast()", "true"),
            ("ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()", "true"),
            ("ip.isCanonical('::1') && !ip.isCanonical('::01')", "true"),
            ("string(ip('::1'))", "\"::1\""),
            ("ip('::1') == ip('0::1')", "true"),
            ("isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0')", "true"),
            ("cidr('10.0.0.0')", "!network address parse error during conversion from string: netip.ParsePrefix(\"10.0.0.0\"): no '/'"),
            ("cidr('10.1.2.3/8').containsIP('10.9.9.9') && cidr('10.0.0.0/8').containsIP(ip('10.0.0.1')) && !cidr('10.0.0.0/8').containsIP('11.0.0.1')", "true"),
            ("cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.0.0.0/8').containsCIDR(cidr('0.0.0.0/0'))", "true"),
            ("string(cidr('10.1.2.3/8').masked())", "\"10.0.0.0/8\""),
            ("cidr('10.0.0.0/8').prefixLength()", "8"),
            ("cidr('10.0.0.1/8').ip() == ip('10.0.0.1')", "true"),
            ("cidr('::/0').containsIP('::1')", "true"),
        ],
    );
}

#[test]
fn formats() {
    table(
        &environment(),
        &[
            ("format.dns1123Label().validate('good').hasValue()", "false"),
            ("format.dns1123Label().validate('Bad_One').value().size() > 0", "true"),
            ("format.named('dns1123Subdomain').value().validate('a.b').hasValue()", "false"),
            ("format.named('unknown').hasValue()", "false"),
            ("format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()", "false"),
            ("format.uuid().validate('x').value()", "[\"does not match the UUID format\"]"),
            ("format.byte().validate('!').value()", "[\"invalid base64\"]"),
            ("format.date().validate('2020-02-30').value()", "[\"invalid date\"]"),
            ("format.datetime().validate('2020-02-03T00:00:00Z').hasValue()", "false"),
            ("!format.uri().validate('https://a').hasValue()", "true"),
            ("!format.qualifiedName().validate('a/b').hasValue() && !format.labelValue().validate('').hasValue()", "true"),
            ("!format.dns1035Label().validate('a').hasValue() && format.dns1035Label().validate('1').hasValue()", "true"),
            ("!format.dns1123LabelPrefix().validate('a-').hasValue()", "true"),
        ],
    );
}

#[test]
fn semantic_versions() {
    table(
        &environment(),
        &[
            ("isSemver('1.2.3') && !isSemver('1.2') && !isSemver('01.2.3') && isSemver('v1.0', true)", "true"),
            ("semver('1.2')", "!No Major.Minor.Patch elements found"),
            ("semver('1.2.3').major() * 100 + semver('1.2.3').minor() * 10 + semver('1.2.3').patch()", "123"),
            ("semver('1.0.0-alpha').isLessThan(semver('1.0.0'))", "true"),
            ("semver('1.0.0-alpha.2').isLessThan(semver('1.0.0-alpha.10'))", "true"),
            ("semver('1.2.3').compareTo(semver('1.2.3+build'))", "0"),
            ("semver('2.0.0').isGreaterThan(semver('1.9.9'))", "true"),
            ("semver('v1.0', true) == semver('1.0.0')", "true"),
        ],
    );
}

#[test]
fn sets_and_patches() {
    table(
        &environment().with_constructors(),
        &[
            ("sets.contains([1, 2], [2]) && !sets.contains([1], [2])", "true"),
            ("sets.equivalent([1, 2, 1], [2, 1])", "true"),
            ("sets.intersects([1, 2], [2, 3]) && !sets.intersects([1], [])", "true"),
            ("jsonpatch.escapeKey('a/b~c')", "\"a~1b~0c\""),
            ("[JSONPatch{op: 'add', path: '/a', value: {'b': 1}}]", "[{\"op\":\"add\",\"path\":\"/a\",\"value\":{\"b\":1}}]"),
            ("Object{spec: Object.spec{replicas: x.n + 1, list: [Object.spec.list{a: 1}]}}", "{\"spec\":{\"list\":[{\"a\":1}],\"replicas\":4}}"),
            ("Object{?a: x.?missing}", "{}"),
            ("has(Object{a: 1}.a) && Object{a: 1}.a == 1 && !has(Object{}.a)", "true"),
            ("JSONPatch{op: x.n}", "!unexpected type int for JSONPatchType 'op' field"),
        ],
    );
    let outside = environment().compile("jsonpatch.escapeKey('a')").unwrap_err();
    assert_eq!(outside.issues[0].message, "undeclared reference to 'jsonpatch' (in container '')");
    let program = environment().with_constructors().compile("Object{spec: Object.wrong{a: 1}}").unwrap();
    let value = program.eval(&Activation::new(), &mut Budget::default()).unwrap();
    assert_eq!(value.check_type_names().unwrap_err(), r#"unexpected type name "Object.wrong", expected "Object.spec", which matches field name path from root Object type"#);
}

#[test]
fn extensions_are_off_unless_asked_for() {
    let with = environment().with_extensions();
    table(
        &with,
        &[
            ("cel.bind(v, 1 + 1, v * v)", "4"),
            ("math.greatest(1, 2.5, 2)", "2.5"),
            ("math.least([3, 1])", "1"),
            ("math.ceil(1.2) + math.floor(1.8) + math.round(1.5) + math.trunc(-1.5)", "4.0"),
            ("math.abs(-1) + math.sign(-5)", "0"),
            ("math.bitAnd(6, 3) + math.bitOr(4, 1) + math.bitXor(6, 3) + math.bitShiftLeft(1, 3)", "20"),
            ("math.isNaN(0.0 / 0.0) && math.isInf(1.0 / 0.0) && math.isFinite(1.0)", "true"),
            ("math.sqrt(9)", "3.0"),
            ("'abc'.reverse()", "\"cba\""),
        ],
    );
    assert!(environment().compile("cel.bind(v, 1, v)").is_err());
    assert!(environment().compile("math.ceil(1.0)").is_err());
}

/// Allows `get` on anything named `yes`.
struct Named;
impl Authorizer for Named {
    fn authorize(&self, check: &Check) -> Decision {
        let allowed = check.verb == "get" && (check.name == "yes" || check.path.as_deref() == Some("/yes"));
        Decision { allowed, reason: format!("{}/{} {:?}", check.group, check.resource, check.service_account), error: (check.verb == "boom").then(|| "broken".into()) }
    }
}

#[test]
fn authorizer() {
    let env = Environment::new().variable("authorizer", Type::AUTHORIZER);
    let run = |text: &str| {
        let program = env.compile(text).unwrap_or_else(|e| panic!("{e}"));
        let mut budget = Budget::default();
        let result = program.eval(&Activation::new().bind("authorizer", Value::authorizer(&Named)), &mut budget);
        (result.map(|v| v.to_json().unwrap().to_string()).unwrap_or_else(|e| format!("!{e}")), budget.spent)
    };
    assert_eq!(run("authorizer.group('apps').resource('deployments').namespace('n').name('yes').check('get').allowed()"), ("true".into(), 350_006));
    assert_eq!(run("authorizer.path('/yes').check('get').allowed()").0, "true");
    assert_eq!(run("authorizer.path(' ').check('get').allowed()").0, "!path must not be empty");
    assert_eq!(run("authorizer.group('').resource(' ').check('get').allowed()").0, "!resource must not be empty");
    assert_eq!(run("authorizer.group('a').resource('b').subresource('c').check('boom').errored()").0, "true");
    assert_eq!(run("authorizer.group('a').resource('b').check('boom').error()").0, "\"broken\"");
    assert_eq!(run("authorizer.serviceAccount('ns', 'sa').group('a').resource('b').check('x').reason()").0, r#""a/b Some((\"ns\", \"sa\"))""#);
    assert!(run("authorizer.serviceAccount('Bad!', 'sa').path('/x').check('x').allowed()").0.starts_with("!Invalid service account namespace"));
    assert_eq!(run("authorizer.group('').resource('pods').fieldSelector('a=b').labelSelector('c=d').check('list').allowed()").0, "false");
    let thrice = "authorizer.path('/no').check('x').allowed() || authorizer.path('/no').check('x').allowed() || authorizer.path('/no').check('x').allowed()";
    assert_eq!(run(thrice).0, "!operation cancelled: actual cost limit exceeded");
}
