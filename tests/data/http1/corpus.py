"""The cases that record.py plays against the real Envoy."""

REQUESTS = []
RESPONSES = []


def unique(cases, name):
    taken = {c["name"] for c in cases}
    candidates = [name] + ["%s (%d)" % (name, i) for i in range(2, 9)]
    return next(c for c in candidates if c not in taken)


def q(name, data, **more):
    REQUESTS.append({"name": unique(REQUESTS, name), "in": data, **more})


def r(name, data, **more):
    RESPONSES.append({"name": unique(RESPONSES, name), "in": data, **more})


def head(first, *fields, host="host: h"):
    return "\r\n".join([first] + ([host] if host else []) + list(fields)) + "\r\n\r\n"


def get(*fields, **kw):
    return head("GET / HTTP/1.1", *fields, **kw)


def post(body, *fields):
    return head("POST / HTTP/1.1", *fields) + body


# methods
for m in ("GET HEAD POST PUT DELETE OPTIONS TRACE PATCH ACL BIND CHECKOUT COPY LINK LOCK MERGE MKACTIVITY "
          "MKCALENDAR MKCOL MOVE MSEARCH NOTIFY PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH SOURCE SUBSCRIBE "
          "UNBIND UNLINK UNLOCK UNSUBSCRIBE FOO QUERY PRI get Get G GETX M-SEARCH").split():
    q("method " + m, head(m + " /a HTTP/1.1"))
q("method empty", head(" /a HTTP/1.1"))
q("method with tab", head("\tGET /a HTTP/1.1"))
q("method with quote", head('G"T /a HTTP/1.1'))
q("connect", head("CONNECT h:80 HTTP/1.1"))
q("connect no port", head("CONNECT h HTTP/1.1"))
q("connect path", head("CONNECT /a HTTP/1.1"))
q("connect url", head("CONNECT http://h:80 HTTP/1.1"))
q("connect cl 0", head("CONNECT h:80 HTTP/1.1", "content-length: 0"))
q("connect cl 3", head("CONNECT h:80 HTTP/1.1", "content-length: 3") + "abc")
q("connect te", head("CONNECT h:80 HTTP/1.1", "transfer-encoding: chunked") + "0\r\n\r\n")
q("connect no host", head("CONNECT h:80 HTTP/1.1", host=None))
q("connect data after", head("CONNECT h:80 HTTP/1.1") + "abc")
q("connect at", head("CONNECT u@h:80 HTTP/1.1"))
q("connect v6", head("CONNECT [::1]:80 HTTP/1.1"))

# versions
for v in ("HTTP/1.0", "HTTP/1.2", "HTTP/1.9", "HTTP/0.9", "HTTP/2.0", "HTTP/3.1", "HTTP/1.10", "HTTP/01.1", "http/1.1", "HTTP/1,1",
          "HTTP/1.", "HTTP/1", "HTTPS/1.1", "Http/1.1", "HTTP/1.1x", "HTTP /1.1", "HTTP/1.1 x", "xHTTP/1.1", "HTTP/x.1", "RTSP/1.0"):
    q("version " + v, head("GET / " + v))
q("version missing", head("GET /"))
q("version missing one line", "GET /\r\n")
q("version missing space", head("GET / "))
q("1.0 without host", head("GET / HTTP/1.0", host=None))
q("1.0 keepalive", head("GET / HTTP/1.0", "connection: keep-alive"))
q("1.0 post", head("POST / HTTP/1.0", "content-length: 3") + "abc")
q("1.0 chunked", head("POST / HTTP/1.0", "transfer-encoding: chunked") + "0\r\n\r\n")
q("1.0 bad cl", head("POST / HTTP/1.0", "content-length: x"))
q("1.0 fragment", head("GET /#a HTTP/1.0"))
q("1.0 websocket", head("GET / HTTP/1.0", "connection: upgrade", "upgrade: websocket"))
q("1.0 bad te", head("POST / HTTP/1.0", "transfer-encoding: gzip"))
q("1.0 too many", head("GET / HTTP/1.0", *["a%d: b" % i for i in range(120)]))
q("1.0 HEAD", head("HEAD / HTTP/1.0"))
q("1.0 grpc", head("POST / HTTP/1.0", "content-type: application/grpc"))
q("two requests 1.0 first", head("GET / HTTP/1.0") + get())

# request line blanks
q("double space", head("GET  /  HTTP/1.1"))
q("tabs", head("GET\t/\tHTTP/1.1"))
q("trailing blanks", head("GET / HTTP/1.1   "))
q("trailing tab", head("GET / HTTP/1.1\t"))
q("cr in line", head("GET /\rHTTP/1.1"))
q("vt in line", head("GET /\x0bHTTP/1.1"))
q("nul in line", head("GET /\x00 HTTP/1.1"))
q("nul between", head("GET \x00/ HTTP/1.1"))
q("bell in path", head("GET /\x07a HTTP/1.1"))
q("ff in path", head("GET /\x0ca HTTP/1.1"))
q("tab in path", head("GET /a\tb HTTP/1.1"))
q("del in path", head("GET /\x7fa HTTP/1.1"))
q("space in path", head("GET /a b HTTP/1.1"))
q("leading space", " " + get())
q("leading tab", "\t" + get())
q("leading nul", "\x00" + get())
q("leading crlf", "\r\n" + get())
q("leading crlfs", "\r\n\r\n\r\n\r\n" + get())
q("leading lf", "\n" + get())
q("leading cr", "\r" + get())
q("leading crlf space", "\r\n " + get())
q("only crlf", "\r\n\r\n")
q("crlf between requests", get() + "\r\n" + get())
q("crlf after post", post("abc", "content-length: 3") + "\r\n" + get())
q("lf between requests", get() + "\n\n" + get())
q("garbage", "garbage\r\n\r\n")
q("Garbage", "Garbage\r\n\r\n")
q("binary", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
q("empty line 1", "G\r\n\r\n")
q("partial head", "GET / HTTP/1.1\r\nhost: h\r\n")
q("partial bad method", "F")
q("partial bad start", "get")
q("partial bad line", "GET / HTTP/9\r\n")
q("partial unknown method", "GOO / HTTP/1.1\r\n")
q("partial bad header", "GET / HTTP/1.1\r\nhost h\r\n")
q("h2 preface in 1.1", "PRI * HTTP/2.1\r\n\r\n")

# targets
for t in ("/a?b=c&d", "//a//b", "/../a", "/%2F%2e", "/%", "/%zz", "/a\\b", '/"', "/<>", "/{}|^`", "/a;b", "/~", "/a#b", "/#", "/a?b#c",
          "*", "a", "?a", "#a", "h:80", "/\xe9", "http://g/b", "http://g", "http://g?x", "http://g/?x", "http://g:81/p", "HTTP://G/p", "https://g/p",
          "ftp://g/p", "x-y+z.1://g/p", "1http://g/p", "http:/g/p", "http:g", "http://", "http:///p", "http://u@g/p", "http://u@v@g/p", "http://u@@g/p",
          "http://[::1]:8/p", "http://[::1/p", "http://g:/p", "http://g:x/p", "http://g:99999/p", "http://g/#f", "http://g#f", "http://g /p", "http://g_h/p",
          "http://g\\h/p", "http://g/p?q=http://z", "//g/p", "://g/p", "http://%41/p", "http://g:80/p", "http://g:80", "/*", "*a", "http://g:443/p", "http://a:b:c/p", "http://.../p", "http://-/p", "wss://g/p", "http://g:0/p", "http://g;x/p", "http://g%20h/p", "http://[zz]/p", "http://[::1]/p"):
    q("target " + t, head("GET " + t + " HTTP/1.1"))
q("options *", head("OPTIONS * HTTP/1.1"))
q("options *a", head("OPTIONS *a HTTP/1.1"))
q("options absolute", head("OPTIONS http://g HTTP/1.1"))
q("post *", head("POST * HTTP/1.1"))
q("absolute no host", head("GET http://g/b HTTP/1.1", host=None))
q("absolute https port", head("GET https://g:443/b HTTP/1.1"))
q("fragment post", head("POST /#a HTTP/1.1", "content-length: 3") + "abc")
q("fragment grpc", head("POST /#a HTTP/1.1", "content-type: application/grpc"))
q("fragment head", head("HEAD /#a HTTP/1.1"))
q("query post body", head("QUERY / HTTP/1.1", "content-length: 3") + "abc")

# host
q("no host", get(host=None))
q("no host post", head("POST / HTTP/1.1", "content-length: 3", host=None) + "abc")
q("no host grpc", head("POST / HTTP/1.1", "content-type: application/grpc", host=None))
q("empty host", get(host="host:"))
q("two hosts", get("host: g"))
q("same hosts", get("host: h"))
q("host and empty host", get("host:"))
q("empty host then host", get("host: g", host="host:"))
for h in ("a b", "a/b", "a@b", "a?b", "a#b", "u:p@h", "a_b", "[::1]", "[::1", "a,b", "a\\b", "a\tb", "\xe9", "h:80", "h:x", "h:", ":80", '"', "<", "a%20b", "*", "{", "|", "a^b", "a`b", "a;b", "a=b"):
    q("host " + h, get(host="host: " + h))
q("host upper", get(host="HOST: H"))
q("host last", head("GET / HTTP/1.1", "a: b", "host: z", host=None))
q(":authority", get(":authority: x"))
q(":path", get(":path: /x"))

# header names
for n in ("a b", "a\tb", "a ", " a", "a\x00", "a\x01", "\xe9", "a(b", "a,b", "a/b", "a;b", "a<b", "a=b", "a?b", "a@b", "a[b", "a\\b", "a{b", 'a"b', "a\x7f",
          "!#$%&'*+-.^_`|~0", "A_B", "UPPER-Case", "1", "", ":", "a:b", "-", "_"):
    q("name " + repr(n)[1:-1], get(n + ": v"))
q("no colon", get("novalue"))
q("no colon last", get("a: b", "novalue"))
q("no colon folded", get("no", " colon: x"))
q("name cr", get("a\rb: v"))

# header values
for v in ("", " ", "a b", "  a  ", "\ta\t", "a\x00b", "a\x01b", "a\x0bb", "a\x0cb", "a\x1fb", "a\x7fb", "\xe9\xff", "a\rb", "\rb", "a\r", "a\tb", '"', "a: b", ":",
          "a,b", "\x80", "\r", "a\r\rb"):
    q("value " + repr(v)[1:-1], get("x-v:" + v))
q("value no space", get("x-v:a"))
q("value long", get("x-v: {{a*5000}}"))
q("value tab blanks", get("x-v:\t \ta \t"))

# line ends
q("bare lf", "GET / HTTP/1.1\nhost: h\n\n")
q("bare lf mixed", "GET / HTTP/1.1\r\nhost: h\nx: y\r\n\n")
q("bare lf end", "GET / HTTP/1.1\r\nhost: h\r\n\n")
q("lf crlf end", "GET / HTTP/1.1\nhost: h\n\r\n")
q("cr only", "GET / HTTP/1.1\rhost: h\r\r")
q("crcrlf end", "GET / HTTP/1.1\r\nhost: h\r\r\n\r\n")
q("blank line with cr cr", "GET / HTTP/1.1\r\nhost: h\r\n\r\r\n\r\n")
q("blank line with space", "GET / HTTP/1.1\r\nhost: h\r\n \r\n\r\n")
q("blank line with x", "GET / HTTP/1.1\r\nhost: h\r\nx\r\n\r\n")
q("line of one char", "GET / HTTP/1.1\r\nhost: h\r\nx\n\r\n")
q("line lone cr", "GET / HTTP/1.1\r\nhost: h\r\n\rx: y\r\n\r\n")
q("split in crlf", ["GET / HTTP/1.1\r", "\nhost: h\r", "\n\r", "\n"])
q("split in name", ["GET / HTTP/1.1\r\nho", "st: h\r\n\r\n"])
q("split leading", ["\r", "\n", "GET / HTTP/1.1\r\nhost: h\r\n\r\n"])

# folding
q("fold space", get("x-v: a", " b"))
q("fold tab", get("x-v: a", "\tb"))
q("fold many", get("x-v: a", "    b"))
q("fold twice", get("x-v: a", " b", " c"))
q("fold trailing blank", get("x-v: a  ", " b"))
q("fold empty start", get("x-v:", " b"))
q("fold empty line", get("x-v: a", " ", " b"))
q("fold blank end", get("x-v: a", "  "))
q("fold first", head("GET / HTTP/1.1", " x: y", host=None) )
q("fold first then host", "GET / HTTP/1.1\r\n x: y\r\nhost: h\r\n\r\n")
q("fold with colon", get("x-v: a", " y: z"))
q("fold host", get(host="host: h\r\n g"))
q("fold cl", post("abc", "content-length:", " 3"))
q("fold cl 2", post("abc", "content-length: 3", " "))
q("fold cl 3", post("abc", "content-length: 0", " 3"))
q("fold te", post("3\r\nabc\r\n0\r\n\r\n", "transfer-encoding:", " chunked"))
q("fold te 2", post("3\r\nabc\r\n0\r\n\r\n", "transfer-encoding: chunked", " x"))
q("fold lf", "GET / HTTP/1.1\nhost: h\nx-v: a\n b\n\n")
q("fold nul", get("x-v: a", "\x00b"))
q("fold cr start", get("x-v: a", "\rb: c"))
q("fold vt", get("x-v: a", "\x0bb"))
q("fold mixed blanks", get("x-v: a \t", " \t b"))

# content-length
for v in ("0", "3", "003", "+3", "-3", " 3", "3 ", "3,3", "3, 3", "x", "", "0x3", "3.0", "3 3", "18446744073709551615", "18446744073709551616", "99999999999999999999999", "\t3", "3\t", "3;"):
    q("cl " + v.strip(" ") + ("" if v.strip(" ") == v else " blanks %d" % len(v)), head("POST / HTTP/1.1", "content-length:" + v) + "abc")
q("cl two same", head("POST / HTTP/1.1", "content-length: 3", "content-length: 3") + "abc")
q("cl two zero", head("POST / HTTP/1.1", "content-length: 0", "content-length: 0"))
q("cl two different", head("POST / HTTP/1.1", "content-length: 3", "content-length: 4") + "abcd")
q("cl two first bad", head("POST / HTTP/1.1", "content-length: x", "content-length: x") + "abc")
q("cl two empty", head("POST / HTTP/1.1", "content-length:", "content-length:"))
q("cl and bad", head("POST / HTTP/1.1", "content-length: 3", "content-length: x") + "abc")
q("cl get", get("content-length: 3") + "abc")
q("cl get 0", get("content-length: 0"))
q("cl head", head("HEAD / HTTP/1.1", "content-length: 3") + "abc")
q("cl delete", head("DELETE / HTTP/1.1", "content-length: 3") + "abc")
q("cl upper", head("POST / HTTP/1.1", "CONTENT-LENGTH: 3") + "abc")
q("cl split body", [head("POST / HTTP/1.1", "content-length: 6") + "abc", "def"])
q("cl underscore", head("POST / HTTP/1.1", "content_length: 3"))
q("cl early excess", head("POST / HTTP/1.1", "content-length: 3") + "abcXX")
q("no cl body", head("POST / HTTP/1.1") + "abc")

# transfer-encoding
for v in ("chunked", "Chunked", "CHUNKED", " chunked ", "gzip", "identity", "gzip, chunked", "chunked, gzip", "chunked,chunked", "chunked, identity", "chunked;x", "xchunked", "",
          "\tchunked", "chunked\t", "\x0bchunked", "chun ked", "deflate", "trailers", ",chunked", "chunked,", '"chunked"'):
    q("te " + repr(v)[1:-1], head("POST / HTTP/1.1", "transfer-encoding:" + v) + "3\r\nabc\r\n0\r\n\r\n")
q("te twice", head("POST / HTTP/1.1", "transfer-encoding: chunked", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("te gzip then chunked", head("POST / HTTP/1.1", "transfer-encoding: gzip", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("te chunked then identity", head("POST / HTTP/1.1", "transfer-encoding: chunked", "transfer-encoding: identity") + "3\r\nabc\r\n0\r\n\r\n")
q("te empty then chunked", head("POST / HTTP/1.1", "transfer-encoding:", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("te and cl", head("POST / HTTP/1.1", "transfer-encoding: chunked", "content-length: 3") + "3\r\nabc\r\n0\r\n\r\n")
q("cl and te", head("POST / HTTP/1.1", "content-length: 3", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("cl 0 and te", head("POST / HTTP/1.1", "content-length: 0", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("cl bad and te", head("POST / HTTP/1.1", "content-length: x", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("cl empty and te", head("POST / HTTP/1.1", "content-length:", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("cl and te identity", head("POST / HTTP/1.1", "content-length: 3", "transfer-encoding: identity") + "abc")
q("cl and te gzip", head("POST / HTTP/1.1", "content-length: 3", "transfer-encoding: gzip") + "abc")
q("te identity get", get("transfer-encoding: identity"))
q("te get", get("transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("te head", head("HEAD / HTTP/1.1", "transfer-encoding: chunked") + "0\r\n\r\n")
q("te nominated", head("POST / HTTP/1.1", "connection: transfer-encoding", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("cl nominated", head("POST / HTTP/1.1", "connection: content-length", "content-length: 3") + "abc")

# chunks
CH = head("POST /c HTTP/1.1", "transfer-encoding: chunked")
for name, body in {
    "plain": "3\r\nabc\r\n0\r\n\r\n", "upper": "A\r\n0123456789\r\n0\r\n\r\n", "lower": "a\r\n0123456789\r\n0\r\n\r\n", "zeros": "0003\r\nabc\r\n000\r\n\r\n",
    "empty": "0\r\n\r\n", "two": "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "ext": "3;x=y\r\nabc\r\n0;z\r\n\r\n", "ext quoted": '3;x="a;b"\r\nabc\r\n0\r\n\r\n',
    "ext quoted crlf": '3;x="a\r\nabc\r\n0\r\n\r\n', "ext space": "3 ;x\r\nabc\r\n0\r\n\r\n", "space": "3 \r\nabc\r\n0\r\n\r\n", "spaces text": "3 zz\r\nabc\r\n0\r\n\r\n",
    "tab": "3\t\r\nabc\r\n0\r\n\r\n", "leading space": " 3\r\nabc\r\n0\r\n\r\n", "ext cr": "3;a\rb\r\nabc\r\n0\r\n\r\n", "cr in size": "3\r\r\nabc\r\n0\r\n\r\n", "cr then text": "3\rx\r\nabc\r\n0\r\n\r\n",
    "ext nul": "3;\x00\r\nabc\r\n0\r\n\r\n", "lf": "3\nabc\n0\n\n", "lf size": "3\nabc\r\n0\r\n\r\n", "lf ext": "3;x\nabc\r\n0\r\n\r\n", "lf data": "3\r\nabc\n0\r\n\r\n", "lf last": "3\r\nabc\r\n0\n\r\n", "lf end": "3\r\nabc\r\n0\r\n\n", "lf lf end": "3\r\nabc\r\n0\n\n",
    "bad": "x\r\nabc\r\n0\r\n\r\n", "minus": "-3\r\nabc\r\n0\r\n\r\n", "plus": "+3\r\nabc\r\n0\r\n\r\n", "0x": "0x3\r\nabc\r\n0\r\n\r\n", "blank line": "\r\n3\r\nabc\r\n0\r\n\r\n", "semicolon": ";\r\nabc\r\n0\r\n\r\n", "ext empty": "3;\r\nabc\r\n0\r\n\r\n",
    "no crlf": "3\r\nabc0\r\n\r\n", "junk": "3\r\nabcXX\r\n0\r\n\r\n", "junk long": "3\r\nabcXXXXXXXXX\r\n0\r\n\r\n", "cr data": "3\r\nabc\r0\r\n\r\n", "crcrlf data": "3\r\nabc\r\r\n0\r\n\r\n",
    "max": "FFFFFFFFFFFFFFFF\r\nabc", "overflow": "10000000000000000\r\nabc", "overflow 2": "FFFFFFFFFFFFFFFFF\r\nabc", "16 digits ok": "0000000000000003\r\nabc\r\n0\r\n\r\n", "17 digits zero": "00000000000000003\r\nabc\r\n0\r\n\r\n",
    "trailer": "3\r\nabc\r\n0\r\nx: y\r\n\r\n", "trailers": "3\r\nabc\r\n0\r\nx: y\r\nz: w\r\n\r\n", "trailer bad name": "3\r\nabc\r\n0\r\nx y: z\r\n\r\n", "trailer no colon": "3\r\nabc\r\n0\r\nxy\r\n\r\n", "trailer nul": "3\r\nabc\r\n0\r\nx: \x00\r\n\r\n",
    "trailer fold": "3\r\nabc\r\n0\r\nx: y\r\n z\r\n\r\n", "trailer space": "3\r\nabc\r\n0\r\n x: y\r\n\r\n", "trailer cl": "3\r\nabc\r\n0\r\ncontent-length: 9\r\n\r\n", "trailer te": "3\r\nabc\r\n0\r\ntransfer-encoding: gzip\r\n\r\n", "trailer lf": "3\r\nabc\r\n0\nx: y\n\n", "trailer host": "3\r\nabc\r\n0\r\nhost: x\r\n\r\n",
    "trailer long ok": "3\r\nabc\r\n0\r\nx: {{a*50000}}\r\n\r\n", "trailer too long": "3\r\nabc\r\n0\r\nx: {{a*62000}}\r\n\r\n", "trailer empty name": "3\r\nabc\r\n0\r\n: y\r\n\r\n",
    "trailer many": "3\r\nabc\r\n0\r\n" + "".join("a%d: b\r\n" % i for i in range(150)) + "\r\n", "end crcrlf": "3\r\nabc\r\n0\r\n\r\r\n", "end cr": "3\r\nabc\r\n0\r\n\r", "end x": "3\r\nabc\r\n0\r\n\rx", "trailer delete": "3\r\nabc\r\n0\r\nx: \x7f\r\n\r\n", "trailer high": "3\r\nabc\r\n0\r\nx\xe9: y\r\n\r\n",
    "no end": "3\r\nabc\r\n", "ext long": "3;{{x*70000}}\r\nabc\r\n0\r\n\r\n", "unicode": "\xb3\r\nabc\r\n", "g": "g\r\n", "3g": "3g\r\n", "3.": "3.\r\n", "3,": "3,\r\nabc", "then get": "3\r\nabc\r\n0\r\n\r\n" + get(), "then junk": "3\r\nabc\r\n0\r\n\r\nJUNK JUNK\r\n\r\n",
    "trailer end lf": "3\r\nabc\r\n0\r\nx: y\r\n\n", "trailer cr": "3\r\nabc\r\n0\r\nx: a\rb\r\n\r\n",
}.items():
    q("chunk " + name, CH + body)
q("chunk split", [CH, "3", "\r", "\na", "bc", "\r", "\n0", "\r\n", "\r", "\n"])
q("chunk split ext cr", [CH, "3;\r", "x\r\nabc\r\n0\r\n\r\n"])
q("chunk bad late", [CH + "3\r\nabc\r\n", "zz\r\n"])

# connection and hop-by-hop
q("close", get("connection: close"))
q("Close", get("Connection: Close"))
q("close list", get("connection: foo, close"))
q("close two lines", get("connection: foo", "connection: close"))
q("close keep-alive", get("connection: close, keep-alive"))
q("keep-alive", get("connection: keep-alive"))
q("proxy-connection close", get("proxy-connection: close"))
q("nominated", get("connection: x-a, x-b", "x-a: 1", "x-b: 2", "x-c: 3"))
q("nominated case", get("connection: X-A", "x-a: 1"))
q("nominated quoted", get('connection: "x-a"', "x-a: 1"))
q("nominated empty", get("connection: ,,x-a,", "x-a: 1"))
q("nominated authority", get("connection: :authority"))
q("nominated path", get("connection: :path"))
q("nominated host", get("connection: host"))
q("nominated cookie", get("connection: cookie", "cookie: a"))
q("nominated xff", get("connection: x-forwarded-for", "x-forwarded-for: 1.2.3.4"))
q("nominated xfp", get("connection: x-forwarded-proto", "x-forwarded-proto: foo"))
q("nominated xfh", get("connection: x-forwarded-host", "x-forwarded-host: foo"))
q("nominated te", get("connection: te", "te: trailers"))
q("nominated te gzip", get("connection: te", "te: gzip"))
q("nominated te list", get("connection: te", "te: gzip, trailers"))
q("nominated cache-control", get("connection: cache-control", "cache-control: no-store"))
q("nominated seldon-model", get("connection: seldon-model", "seldon-model: iris"))
q("nominated content-type", post("abc", "connection: content-type", "content-type: a/b", "content-length: 3"))
q("nominated close and other", get("connection: close, x-a", "x-a: 1"))
q("nominated 1.1 long", get("connection: " + ",".join("x%d" % i for i in range(60)), "x5: a"))
q("nominated upgrade only", get("connection: upgrade"))
q("nominated semicolon", get("connection: x-a;q=1", "x-a: 1"))
q("nominated two lines", get("connection: x-a", "connection: x-b", "x-a: 1", "x-b: 2"))
q("nominated many te", get("connection: te, x-a", "te: trailers", "x-a: 1"))
q("nominated http2-settings", get("connection: http2-settings", "http2-settings: x"))
q("keep-alive header", get("keep-alive: timeout=5"))
q("proxy-connection", get("proxy-connection: keep-alive"))
q("proxy-authorization", get("proxy-authorization: x", "proxy-authenticate: y"))
q("trailer header", post("3\r\nabc\r\n0\r\nx: y\r\n\r\n", "trailer: x", "transfer-encoding: chunked"))
for v in ("trailers", "Trailers", "gzip", "trailers, gzip", "gzip,trailers", "trailers;q=1", "", "gzip;q=0.5, trailers ;q=1"):
    q("te header " + v, get("te: " + v))
q("te header twice", get("te: trailers", "te: gzip"))
q("upgrade h2c", get("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAA"))
q("upgrade h2c close", get("connection: upgrade, http2-settings, close", "upgrade: h2c", "http2-settings: AAA"))
q("upgrade H2C", get("connection: Upgrade", "upgrade: H2C"))
q("upgrade h2c no connection", get("upgrade: h2c"))
q("upgrade h2c extra", get("connection: upgrade, x-a", "upgrade: h2c", "x-a: 1"))
q("upgrade h2c list", get("connection: upgrade", "upgrade: h2c, websocket"))
q("upgrade h2c post", post("abc", "connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: x", "content-length: 3"))
q("upgrade websocket", get("connection: upgrade", "upgrade: websocket"))
q("upgrade websocket post", post("abc", "connection: upgrade", "upgrade: websocket", "content-length: 3"))
q("upgrade websocket no connection", get("upgrade: websocket"))
q("upgrade foo", get("connection: Upgrade", "upgrade: foo"))
q("upgrade empty", get("connection: upgrade", "upgrade:"))
q("upgrade keep-alive", get("connection: keep-alive, Upgrade", "upgrade: websocket"))
q("upgrade token inside", get("connection: xupgrade", "upgrade: websocket"))
q("upgrade tls", get("connection: upgrade", "upgrade: TLS/1.0"))
q("upgrade options *", head("OPTIONS * HTTP/1.1", "connection: upgrade", "upgrade: websocket"))
q("upgrade websocket grpc", post("", "connection: upgrade", "upgrade: websocket", "content-type: application/grpc"))
q("upgrade head", head("HEAD / HTTP/1.1", "connection: upgrade", "upgrade: websocket"))
q("upgrade then get", get("connection: upgrade", "upgrade: websocket") + get())
q("expect", post("abc", "expect: 100-continue", "content-length: 3"))
q("expect upper", post("abc", "Expect: 100-Continue", "content-length: 3"))
q("expect other", post("abc", "expect: foo", "content-length: 3"))
q("expect list", post("abc", "expect: foo, 100-continue", "content-length: 3"))
q("expect twice", post("abc", "expect: 100-continue", "expect: 100-continue", "content-length: 3"))
q("expect no body", get("expect: 100-continue"))
q("expect chunked", post("3\r\nabc\r\n0\r\n\r\n", "expect: 100-continue", "transfer-encoding: chunked"))
q("expect late body", [head("POST / HTTP/1.1", "expect: 100-continue", "content-length: 3"), "abc"])
q("expect 404", head("OPTIONS * HTTP/1.1", "expect: 100-continue", "content-length: 3") + "abc")

# x-envoy and forwarded
for n in ("internal", "retry-on", "retry-grpc-on", "max-retries", "retriable-status-codes", "retriable-header-names", "upstream-alt-stat-name", "upstream-rq-timeout-ms",
          "upstream-rq-per-try-timeout-ms", "upstream-rq-timeout-alt-response", "expected-rq-timeout-ms", "force-trace", "ip-tags", "original-url", "original-path", "original-host", "hedge-on-per-try-timeout",
          "is-timeout-retry", "upstream-stream-duration-ms", "attempt-count", "decorator-operation", "downstream-service-cluster", "downstream-service-node", "external-address",
          "peer-metadata", "peer-metadata-id", "overloaded", "upstream-service-time", "foo", "ratelimited", "degraded", "upstream-canary", "immediate-health-check-fail", "nodeid", "cluster", "upstream-healthchecked-cluster", "not-forwarded", "original-dst-host", "original-method", "local-overloaded", "drop-overload", "parent-shadow", "peer-metadata-x", "expected-rq-timeout"):
    q("x-envoy-" + n, get("x-envoy-" + n + ": 1"))
q("x-envoy with xff", get("x-forwarded-for: 10.0.0.1", "x-envoy-retry-on: 5xx", "x-envoy-internal: true"))
q("x-envoy twice", get("x-envoy-max-retries: 1", "x-envoy-max-retries: 2"))
q("xff local", get("x-forwarded-for: 127.0.0.1", "x-envoy-max-retries: 3"))
q("xff twice", get("x-forwarded-for: 1.1.1.1", "x-forwarded-for: 2.2.2.2"))
q("xfp", get("x-forwarded-proto: https"))
q("xfp empty", get("x-forwarded-proto:"))
q("xfp odd", get("x-forwarded-proto: foo"))
q("xfp twice", get("x-forwarded-proto: http", "x-forwarded-proto: https"))
q("xfp upper", get("x-forwarded-proto: HTTPS"))
q("x-forwarded-scheme", get("x-forwarded-scheme: https", "x-scheme: https"))
q("forwarded others", get("x-forwarded-host: a", "x-forwarded-port: 80", "forwarded: for=1", "x-forwarded-client-cert: c", "x-client-trace-id: t", "via: 1.1 z"))
q("request-id", get("x-request-id: abc", "date: d", "server: s", "user-agent: u"))
q("user-agent empty", get("user-agent:"))
q("grpc-timeout", get("grpc-timeout: 1S", "grpc-accept-encoding: gzip"))
q("content-type grpc", post("", "content-type: application/grpc"))
q("internal model", get("seldon-internal-model: evil"))
q("x-http-method-override", get("x-http-method-override: DELETE"))
q("x-datadog", get("x-ot-span-context: a", "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "b3: 1"))

# folding of repeated headers
for n in """accept accept-encoding accept-language accept-charset accept-ranges access-control-allow-origin access-control-request-method access-control-request-headers access-control-max-age age allow authorization
    authentication cache-control client-trace-id connection content-disposition content-encoding content-language content-location content-range content-type cookie date dnt early-data etag expires forwarded from grpc-accept-encoding
    grpc-encoding grpc-message grpc-retry-pushback-ms grpc-status grpc-timeout http2-settings if-match if-modified-since if-none-match if-range if-unmodified-since keep-alive last-modified link location max-forwards origin pragma
    priority proxy-authorization proxy-connection proxy-status range referer retry-after sec-fetch-dest sec-websocket-key sec-websocket-protocol seldon-model seldon-internal-model seldon-logging server server-timing set-cookie strict-transport-security
    trace-id traceparent tracestate trailer upgrade user-agent vary via warning www-authenticate x-a x-b3-traceid x-client-trace-id x-custom x-envoy-attempt-count x-envoy-decorator-operation x-envoy-degraded x-envoy-downstream-service-cluster x-envoy-downstream-service-node
    x-envoy-external-address x-envoy-original-path x-envoy-original-host x-envoy-overloaded x-envoy-ratelimited x-envoy-upstream-service-time x-envoy-upstream-stream-duration-ms x-envoy-is-timeout-retry x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-port
    x-forwarded-proto x-ot-span-context x-real-ip x-request-id x-seldon-route x-squash-debug x-envoy-upstream-canary x-envoy-immediate-health-check-fail x-envoy-original-dst-host x-requested-with x-frame-options grpc-trace-bin baggage te host protocol scheme method path access-control-allow-headers access-control-allow-methods access-control-allow-credentials access-control-expose-headers""".split():
    if n not in ("connection", "te", "upgrade", "host"):
        q("repeat " + n, get(n + ": 1", n + ": 2"))
q("repeat accept apart", get("accept: a", "x: y", "accept: b", "x: z"))
q("repeat accept empty first", get("accept:", "accept: b"))
q("repeat accept empty second", get("accept: a", "accept:"))
q("repeat accept three", get("accept: a", "accept: b", "accept: c"))
q("repeat case", get("Accept: a", "ACCEPT: b"))
q("cookies", get("cookie: a=1", "x: y", "cookie: b=2"))

# limits
LINE = len("GET / HTTP/1.1\r\nhost: h\r\nx: \r\n\r\n")
for d in (-1, 0, 1, 100):
    q("size %+d" % d, get("x: {{a*%d}}" % (61440 - LINE + d)))
q("size path", head("GET /{{a*61000}} HTTP/1.1", "x: {{b*500}}"))
q("size path ok", head("GET /{{a*61000}} HTTP/1.1"))
q("size unfinished line", "GET /{{a*62000}}")
q("size unfinished exact", "GET /{{a*61435}}")
q("size leading crlf", "\r\n\r\n" + get("x: {{a*%d}}" % (61440 - LINE)))
q("size leading crlf +1", "\r\n\r\n" + get("x: {{a*%d}}" % (61440 - LINE + 1)))
q("size grpc", head("POST / HTTP/1.1", "content-type: application/grpc", "x: {{a*62000}}"))
q("size head", head("HEAD / HTTP/1.1", "x: {{a*62000}}"))
q("size split", ["GET / HTTP/1.1\r\nhost: h\r\nx: {{a*30000}}", "{{a*%d}}\r\n\r\n" % (61440 - LINE - 30000)])
q("size split +1", ["GET / HTTP/1.1\r\nhost: h\r\nx: {{a*30000}}", "{{a*%d}}\r\n\r\n" % (61440 - LINE - 30000 + 1)])
q("size ok with body", head("POST / HTTP/1.1", "content-length: 3", "x: {{a*60000}}") + "abc" + get())
for n in (98, 99, 100, 101, 150):
    q("count %d" % (n + 1), get(*["x%d: y" % i for i in range(n)]))
q("count repeated", get(*["accept: y" for i in range(150)]))
q("count same", get(*["x: y" for i in range(99)]))
q("count same +1", get(*["x: y" for i in range(100)]))
q("count and bad", get(*["x%d: y" % i for i in range(120)], "transfer-encoding: gzip"))
q("count no host", get(*["x%d: y" % i for i in range(100)], host=None))
q("count absolute", head("GET http://g/ HTTP/1.1", *["x%d: y" % i for i in range(100)], host=None))
q("count absolute host", head("GET http://g/ HTTP/1.1", *["x%d: y" % i for i in range(99)]))
q("count long names", get(*["{{x*600}}%d: y" % i for i in range(101)]))

# pipelining
q("pipeline two", get() + head("GET /b HTTP/1.1"))
q("pipeline four", get() + head("GET /b HTTP/1.1") + post("abc", "content-length: 3") + get())
q("pipeline bad second", get() + "FOO / HTTP/1.1\r\nhost: h\r\n\r\n")
q("pipeline close first", get("connection: close") + get())
q("pipeline post close", post("abc", "content-length: 3", "connection: close") + get())
q("pipeline chunked", CH + "3\r\nabc\r\n0\r\n\r\n" + head("GET /b HTTP/1.1"))
q("pipeline 404 body", head("POST * HTTP/1.1", "content-length: 3") + "abc" + get())
q("pipeline options *", head("OPTIONS * HTTP/1.1") + get())
q("pipeline options * body", head("OPTIONS * HTTP/1.1", "content-length: 3") + "abc" + get())
q("pipeline options * body late", [head("OPTIONS * HTTP/1.1", "content-length: 3"), "abc" + get()])
q("pipeline bad header second", get() + get("a b: c"))
q("pipeline head", head("HEAD / HTTP/1.1") + get())
q("options * close", head("OPTIONS * HTTP/1.1", "connection: close"))
q("options * grpc", head("OPTIONS * HTTP/1.1", "content-type: application/grpc"))
q("head options", head("HEAD / HTTP/1.1", "x: y"))
q("bad grpc", head("POST / HTTP/1.1", "content-type: application/grpc", "a b: c"))
q("te gzip grpc", head("POST / HTTP/1.1", "content-type: application/grpc", "transfer-encoding: gzip"))
q("count grpc", head("POST / HTTP/1.1", "content-type: application/grpc", *["x%d: y" % i for i in range(120)]))
q("bad chunk grpc", head("POST / HTTP/1.1", "content-type: application/grpc", "transfer-encoding: chunked") + "zz\r\n")
q("te gzip head", head("HEAD / HTTP/1.1", "transfer-encoding: gzip"))
q("bad head", head("HEAD / HTTP/1.1", "a b: c"))

# ---------------------------------------------------------------- responses
OK = "HTTP/1.1 200 OK\r\n"


def resp(*fields, first="HTTP/1.1 200 OK", body=""):
    return "\r\n".join([first] + list(fields)) + "\r\n\r\n" + body


r("plain", resp("content-length: 2", body="ok"))
for n, first in {"1.0": "HTTP/1.0 200 OK", "1.2": "HTTP/1.2 200 OK", "2.0": "HTTP/2.0 200 OK", "0.9": "HTTP/0.9 200 OK", "no reason": "HTTP/1.1 200", "no reason blank": "HTTP/1.1 200 ", "reason odd": "HTTP/1.1 200 a\tb\xe9",
                 "lower": "http/1.1 200 OK", "bad version": "HTTP/1.x 200 OK", "version 10": "HTTP/1.10 200 OK", "no code": "HTTP/1.1", "blank code": "HTTP/1.1 ", "code x": "HTTP/1.1 2x0 OK", "code 99": "HTTP/1.1 99 OK", "code 1000": "HTTP/1.1 1000 OK", "code 20": "HTTP/1.1 20 OK", "code 0200": "HTTP/1.1 0200 OK",
                 "code 600": "HTTP/1.1 600 OK", "code 999": "HTTP/1.1 999 OK", "code 299": "HTTP/1.1 299 Foo", "code 0": "HTTP/1.1 0 OK", "code -200": "HTTP/1.1 -200 OK", "code +200": "HTTP/1.1 +200 OK", "double blank": "HTTP/1.1  200  OK", "tab": "HTTP/1.1\t200\tOK", "leading blank": " HTTP/1.1 200 OK",
                 "code 200OK": "HTTP/1.1 200OK", "garbage": "garbage", "H": "H", "HTTP": "HTTP 200 OK", "ICY": "ICY 200 OK", "code 65736": "HTTP/1.1 65736 OK", "code 199": "HTTP/1.1 199 x", "cr": "HTTP/1.1 200 O\rK", "nul": "HTTP/1.1 200 O\x00K"}.items():
    r("status " + n, resp("content-length: 2", first=first, body="ok"))
for c in [200, 201, 202, 203, 205, 206, 207, 208, 226, 300, 301, 302, 303, 305, 307, 308] + list(range(400, 419)) + [419, 420, 421, 422, 423, 424, 425, 426, 428, 429, 431, 444, 451, 499] + list(range(500, 509)) + [510, 511, 512, 520, 599]:
    r("reason %d" % c, resp("content-length: 0", first="HTTP/1.1 %d ZZZ" % c))
r("leading crlf", "\r\n" + resp("content-length: 2", body="ok"))
r("no length eof", resp(body="ok"), eof=True)
r("no length", resp(body="ok"))
r("no length empty eof", resp(), eof=True)
r("1.0 no length eof", resp(first="HTTP/1.0 200 OK", body="ok"), eof=True)
r("1.0 length", resp("content-length: 2", first="HTTP/1.0 200 OK", body="ok"))
r("1.0 keep-alive", resp("content-length: 2", "connection: keep-alive", first="HTTP/1.0 200 OK", body="ok"))
r("1.0 chunked", resp("transfer-encoding: chunked", first="HTTP/1.0 200 OK", body="2\r\nok\r\n0\r\n\r\n"))
r("close", resp("content-length: 2", "connection: close", body="ok"))
r("close nominated", resp("content-length: 2", "connection: close, x-a", "x-a: 1", body="ok"))
r("keep-alive", resp("content-length: 2", "connection: keep-alive", "keep-alive: timeout=5", "proxy-connection: x", body="ok"))
r("connection odd", resp("content-length: 2", "connection: x-a", "x-a: 1", body="ok"))
r("chunked", resp("transfer-encoding: chunked", body="2\r\nok\r\n0\r\n\r\n"))
r("chunked trailers", resp("transfer-encoding: chunked", "trailer: x", body="2\r\nok\r\n0\r\nx: y\r\n\r\n"))
r("chunked bad", resp("transfer-encoding: chunked", body="zz\r\nok\r\n0\r\n\r\n"))
r("chunked bad later", resp("transfer-encoding: chunked", body="2\r\nok\r\nzz\r\n"))
r("chunked eof", resp("transfer-encoding: chunked", body="2\r\nok\r\n"), eof=True)
r("chunked empty", resp("transfer-encoding: chunked", body="0\r\n\r\n"))
r("chunked twice", resp("transfer-encoding: chunked", "transfer-encoding: chunked", body="2\r\nok\r\n0\r\n\r\n"))
r("chunked trailer bad", resp("transfer-encoding: chunked", body="2\r\nok\r\n0\r\nx y: z\r\n\r\n"))
r("chunked data lf", resp("transfer-encoding: chunked", body="2\r\nok\n0\r\n\r\n"))
r("te gzip", resp("transfer-encoding: gzip", body="ok"), eof=True)
r("te identity", resp("transfer-encoding: identity", body="ok"), eof=True)
r("te identity cl", resp("transfer-encoding: identity", "content-length: 2", body="ok"))
r("te gzip chunked", resp("transfer-encoding: gzip, chunked", body="2\r\nok\r\n0\r\n\r\n"))
r("te empty", resp("transfer-encoding:", body="ok"), eof=True)
r("te empty cl", resp("transfer-encoding:", "content-length: 2", body="ok"))
r("te Chunked", resp("transfer-encoding: Chunked", body="2\r\nok\r\n0\r\n\r\n"))
r("cl and te", resp("content-length: 2", "transfer-encoding: chunked", body="2\r\nok\r\n0\r\n\r\n"))
r("cl 0 and te", resp("content-length: 0", "transfer-encoding: chunked", body="2\r\nok\r\n0\r\n\r\n"))
r("te and cl", resp("transfer-encoding: chunked", "content-length: 2", body="2\r\nok\r\n0\r\n\r\n"))
for v in ("x", "", "-1", "+2", "2,2", "0x2", "02", "18446744073709551616", "2 2"):
    r("cl " + v, resp("content-length: " + v, body="ok"))
r("cl two same", resp("content-length: 2", "content-length: 2", body="ok"))
r("cl two different", resp("content-length: 2", "content-length: 3", body="okk"))
r("cl 0", resp("content-length: 0"))
r("cl 0 excess", resp("content-length: 0", body="junk"))
r("cl excess", resp("content-length: 2", body="okjunk"))
r("cl excess response", resp("content-length: 2", body="ok" + resp("content-length: 1", body="x")))
r("cl short eof", resp("content-length: 5", body="ok"), eof=True)
r("cl upper", resp("CONTENT-LENGTH: 2", body="ok"))
r("eof at once", "", eof=True)
r("eof in head", "HTTP/1.1 200 OK\r\ncontent-le", eof=True)
r("eof in line", "HTTP/1.1", eof=True)
for c in (204, 304, 205):
    r("%d bare" % c, resp(first="HTTP/1.1 %d X" % c))
    r("%d cl 0" % c, resp("content-length: 0", first="HTTP/1.1 %d X" % c))
    r("%d cl 5" % c, resp("content-length: 5", first="HTTP/1.1 %d X" % c))
    r("%d body" % c, resp("content-length: 5", first="HTTP/1.1 %d X" % c, body="hello"))
    r("%d te" % c, resp("transfer-encoding: chunked", first="HTTP/1.1 %d X" % c, body="0\r\n\r\n"))
    r("%d te body" % c, resp("transfer-encoding: chunked", first="HTTP/1.1 %d X" % c, body="2\r\nok\r\n0\r\n\r\n"))
r("204 junk", resp(first="HTTP/1.1 204 X", body="hello"))
r("204 cl 00", resp("content-length: 00", first="HTTP/1.1 204 X"))
r("100 then 200", resp(first="HTTP/1.1 100 Continue") + resp("content-length: 2", body="ok"))
r("100 fields", resp("x: y", first="HTTP/1.1 100 Continue") + resp("content-length: 2", body="ok"))
r("100 cl 0", resp("content-length: 0", first="HTTP/1.1 100 Continue") + resp("content-length: 2", body="ok"))
r("100 cl 3", resp("content-length: 3", first="HTTP/1.1 100 Continue") + resp("content-length: 2", body="ok"))
r("100 te", resp("transfer-encoding: chunked", first="HTTP/1.1 100 Continue") + resp("content-length: 2", body="ok"))
r("100 twice", resp(first="HTTP/1.1 100 Continue") * 2 + resp("content-length: 2", body="ok"))
r("102 then 200", resp(first="HTTP/1.1 102 P") + resp("content-length: 2", body="ok"))
r("103 then 200", resp("link: x", first="HTTP/1.1 103 Early Hints") + resp("content-length: 2", body="ok"))
r("150 then 200", resp(first="HTTP/1.1 150 X") + resp("content-length: 2", body="ok"))
r("199 then 200", resp(first="HTTP/1.1 199 X") + resp("content-length: 2", body="ok"))
r("103 bad then 200", resp("a b: c", first="HTTP/1.1 103 X") + resp("content-length: 2", body="ok"))
r("100 then eof", resp(first="HTTP/1.1 100 Continue"), eof=True)
r("103 then eof", resp(first="HTTP/1.1 103 X"), eof=True)
r("101", resp("connection: upgrade", "upgrade: foo", first="HTTP/1.1 101 S"))
r("101 data", resp("connection: upgrade", "upgrade: foo", first="HTTP/1.1 101 S", body="data"))
r("101 eof", resp("connection: upgrade", "upgrade: foo", first="HTTP/1.1 101 S"), eof=True)
r("101 cl 0", resp("content-length: 0", first="HTTP/1.1 101 S"))
r("101 bare", resp(first="HTTP/1.1 101 S"))
r("head cl", resp("content-length: 5"), method="HEAD")
r("head bare", resp(), method="HEAD")
r("head chunked", resp("transfer-encoding: chunked"), method="HEAD")
r("head body", resp("content-length: 5", body="hello"), method="HEAD")
r("head 204", resp(first="HTTP/1.1 204 X"), method="HEAD")
r("head 304 cl", resp("content-length: 5", first="HTTP/1.1 304 X"), method="HEAD")
r("head cl 0", resp("content-length: 0"), method="HEAD")
r("head 404", resp("content-length: 3", first="HTTP/1.1 404 X"), method="HEAD")
r("head cl te", resp("content-length: 3", "transfer-encoding: chunked"), method="HEAD")
r("post empty", resp("content-length: 0"), method="POST")
r("headers kept", resp("Server: gunicorn", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "Via: 1.1 x", "X-A: 1", "x-a: 2", "Set-Cookie: a", "set-cookie: b", "content-length: 2", "x-envoy-upstream-service-time: 77", "x-b: 1", body="ok"))
r("server middle", resp("x-a: 1", "server: s", "x-b: 2", "content-length: 2", body="ok"))
r("server twice", resp("server: s", "x: y", "server: t", "content-length: 2", body="ok"))
r("server empty", resp("server:", "content-length: 2", body="ok"))
r("date empty", resp("date:", "content-length: 2", body="ok"))
r("date twice", resp("date: a", "date: b", "content-length: 2", body="ok"))
r("service time twice", resp("x-envoy-upstream-service-time: 1", "x-envoy-upstream-service-time: 2", "content-length: 2", body="ok"))
r("x-seldon-route", resp("x-seldon-route: :z:", "content-length: 2", body="ok"))
r("te header", resp("te: trailers", "trailer: x", "upgrade: foo", "content-length: 2", body="ok"))
r("upgrade", resp("connection: upgrade", "upgrade: foo", "content-length: 2", body="ok"))
for n in """x-envoy-overloaded x-envoy-degraded x-envoy-immediate-health-check-fail x-envoy-ratelimited x-envoy-upstream-canary x-envoy-upstream-healthchecked-cluster x-envoy-attempt-count x-envoy-decorator-operation
    x-envoy-upstream-canary x-envoy-foo x-envoy-expected-rq-timeout-ms x-request-id proxy-status x-envoy-local-overloaded x-envoy-cluster x-envoy-retry-on alt-svc keep-alive proxy-connection expect http2-settings x-envoy-original-path""".split():
    if not any(c["name"] == "header " + n for c in RESPONSES):
        r("header " + n, resp(n + ": 1", "content-length: 2", body="ok"))
for n in """accept-ranges access-control-allow-origin access-control-allow-headers access-control-allow-credentials access-control-allow-methods access-control-expose-headers access-control-max-age age allow cache-control content-disposition content-encoding content-language
    content-type etag expires grpc-status grpc-message grpc-encoding last-modified link location pragma proxy-authenticate proxy-status retry-after set-cookie strict-transport-security trailer vary via warning www-authenticate x-a x-request-id x-seldon-route x-envoy-degraded x-envoy-ratelimited
    x-envoy-overloaded x-envoy-upstream-canary x-envoy-upstream-healthchecked-cluster x-envoy-immediate-health-check-fail x-envoy-decorator-operation x-envoy-attempt-count content-range x-frame-options server-timing seldon-logging x-forwarded-for user-agent accept te expect x-forwarded-proto""".split():
    r("repeat " + n, resp(n + ": 1", n + ": 2", "content-length: 2", body="ok"))
r("bare lf", "HTTP/1.1 200 OK\ncontent-length: 2\n\nok")
r("fold", resp("x-v: a", " b", "content-length: 2", body="ok"))
r("fold blank", resp("x-v: a", "  ", "content-length: 2", body="ok"))
r("no colon", resp("novalue", "content-length: 2", body="ok"))
for n in ("a b", "a ", "\xe9", "a(b", "", 'a"b', "A_B", "a\x00"):
    r("name " + repr(n)[1:-1], resp(n + ": v", "content-length: 2", body="ok"))
for v in ("", "  a  ", "a\x00b", "a\x01b", "a\x7fb", "\xe9\xff", "a\rb", "a\tb", "a\x0bb"):
    r("value " + repr(v)[1:-1], resp("x-v:" + v, "content-length: 2", body="ok"))
r(":status", resp(":status: 500", "content-length: 2", body="ok"))
L2 = len("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: \r\n\r\n")
for d in (-1, 0, 1):
    r("size %+d" % d, resp("content-length: 2", "x: {{a*%d}}" % (61440 - L2 + d), body="ok"))
r("size big", resp("content-length: 2", "x: {{a*70000}}", body="ok"))
for n in (98, 99, 100, 101):
    r("count %d" % (n + 1), resp("content-length: 2", *["x%d: y" % i for i in range(n)], body="ok"))
r("host header", resp("host: a", "content-length: 2", body="ok"))
r("interim count", resp(*["x%d: y" % i for i in range(101)], first="HTTP/1.1 103 X") + resp("content-length: 2", body="ok"))
r("grpc status", resp("content-type: application/grpc", "grpc-status: 5", "content-length: 0"))

# ---------------------------------------------------------------- finer points
q("query with content-type", head("QUERY / HTTP/1.1", "content-type: text/plain", "content-length: 3") + "abc")
q("query with content-type no body", head("QUERY / HTTP/1.1", "content-type: text/plain"))
q("query empty content-type", head("QUERY / HTTP/1.1", "content-type:"))
q("query no host", head("QUERY / HTTP/1.1", host=None))
q("query fragment", head("QUERY /#a HTTP/1.1"))
q("query grpc", head("QUERY / HTTP/1.1", "content-type: application/grpc"))
q("query options path", head("QUERY http://g?x HTTP/1.1"))
for n in (9, 10, 11):
    q("nominated %d" % n, get("connection: " + ",".join("x%d" % i for i in range(n)), "x5: a"))
    q("nominated %d with blanks" % n, get("connection: " + ", ,".join("x%d" % i for i in range(n)), "x5: a"))
q("nominated close 10", get("connection: " + ",".join(["close"] * 10)))
for n in (255, 256):
    q("nominated te %d" % n, get("connection: te", "te: {{a*%d}}" % n))
    q("nominated te trailers %d" % n, get("connection: te", "te: trailers,{{a*%d}}" % (n - 9)))
q("nominated te case", get("connection: te", "te: Trailers"))
q("nominated te param", get("connection: TE", "te: gzip, trailers;q=1"))
q("nominated connection", get("connection: connection, x-a", "x-a: 1"))
q("nominated colon inside", get("connection: a:b"))
q("nominated colon first blank", get("connection:  :b"))
q("nominated case xff", get("connection: X-Forwarded-For"))
q("nominated keep-alive", get("connection: keep-alive", "keep-alive: 3"))
q("nominated accept twice", get("connection: accept", "accept: 1", "accept: 2"))
q("nominated x twice", get("connection: x-a", "x-a: 1", "x-a: 2"))
q("nominated x-envoy", get("connection: x-envoy-attempt-count", "x-envoy-attempt-count: 1"))
q("nominated expect", post("abc", "connection: expect", "expect: 100-continue", "content-length: 3"))
q("nominated transfer-encoding upper", head("POST / HTTP/1.1", "connection: Transfer-Encoding", "transfer-encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n")
q("nominated proxy-connection", get("connection: proxy-connection", "proxy-connection: close"))
q("websocket with xff nominated", get("connection: upgrade, x-forwarded-for", "upgrade: websocket"))
q("websocket with 11 tokens", get("connection: upgrade," + ",".join("x%d" % i for i in range(11)), "upgrade: websocket"))
q("websocket nominated host", get("connection: upgrade, host", "upgrade: websocket"))
q("h2c with xff nominated", get("connection: upgrade, x-forwarded-for", "upgrade: h2c"))
q("h2c with 11 tokens", get("connection: upgrade," + ",".join("x%d" % i for i in range(11)), "upgrade: h2c"))
q("h2c twice", get("connection: upgrade", "upgrade: h2c", "upgrade: h2c"))
q("h2c and 1.0", head("GET / HTTP/1.0", "connection: upgrade", "upgrade: h2c"))
q("upgrade te", get("connection: upgrade", "upgrade: websocket", "te: gzip"))
q("upgrade chunked", head("POST / HTTP/1.1", "connection: upgrade", "upgrade: websocket", "transfer-encoding: chunked") + "0\r\n\r\n")
q("upgrade te gzip", head("POST / HTTP/1.1", "connection: upgrade", "upgrade: websocket", "transfer-encoding: gzip"))
q("upgrade cl te", head("POST / HTTP/1.1", "connection: upgrade", "upgrade: websocket", "transfer-encoding: chunked", "content-length: 1"))
q("upgrade no host", get("connection: upgrade", "upgrade: websocket", host=None))
q("upgrade fragment", head("GET /#a HTTP/1.1", "connection: upgrade", "upgrade: websocket"))
q("upgrade expect", get("connection: upgrade", "upgrade: websocket", "expect: 100-continue"))
q("te with cr inside", head("POST / HTTP/1.1", "transfer-encoding: chun\rked") + "3\r\nabc\r\n0\r\n\r\n")
q("te chunked then empty", head("POST / HTTP/1.1", "transfer-encoding: chunked", "transfer-encoding:") + "3\r\nabc\r\n0\r\n\r\n")
q("te folded inside", head("POST / HTTP/1.1", "transfer-encoding: chun", "ked") + "0\r\n\r\n")
q("cl with cr inside", head("POST / HTTP/1.1", "content-length: 1\r2") + "abc")
q("cl trailing cr", head("POST / HTTP/1.1", "content-length: 3\r") + "abc")
q("host with cr inside", get(host="host: a\rb"))
for h in "!$&'()+~":
    q("host char " + h, get(host="host: a" + h))
q("expect no host", get("expect: 100-continue", host=None))
q("expect fragment", head("GET /# HTTP/1.1", "expect: 100-continue"))
q("expect 1.0", head("GET / HTTP/1.0", "expect: 100-continue"))
q("expect query", head("QUERY / HTTP/1.1", "expect: 100-continue"))
q("expect blanks", get("expect:  100-continue "))
q("expect close", get("expect: 100-continue", "connection: close"))
q("expect connect", head("CONNECT h:80 HTTP/1.1", "expect: 100-continue"))
q("expect xfp empty", get("expect: 100-continue", "x-forwarded-proto:"))
q("no host fragment", head("GET /# HTTP/1.1", host=None))
q("no host head", head("HEAD / HTTP/1.1", host=None))
q("no host options *", head("OPTIONS * HTTP/1.1", host=None))
q("nominated host options *", head("OPTIONS * HTTP/1.1", "connection: host"))
q("fragment xfp empty", head("GET /# HTTP/1.1", "x-forwarded-proto:"))
q("xfp empty post", post("abc", "content-length: 3", "x-forwarded-proto:"))
q("xfp blank then http", get("x-forwarded-proto:", "x-forwarded-proto: http"))
q("target http://@g/p", head("GET http://@g/p HTTP/1.1"))
q("target http://u:p@g/p", head("GET http://u:p@g/p HTTP/1.1"))
q("target http://u@/p", head("GET http://u@/p HTTP/1.1"))
q("target http://g:65535/p", head("GET http://g:65535/p HTTP/1.1"))
q("target http://g:65536/p", head("GET http://g:65536/p HTTP/1.1"))
q("target http://g:0000080/p", head("GET http://g:0000080/p HTTP/1.1"))
q("target http://[fe80::1%25eth0]/p", head("GET http://[fe80::1%25eth0]/p HTTP/1.1"))
q("target http://[1.2.3.4]/p", head("GET http://[1.2.3.4]/p HTTP/1.1"))
q("target http://[]/p", head("GET http://[]/p HTTP/1.1"))
q("target http://[::1]x/p", head("GET http://[::1]x/p HTTP/1.1"))
q("target http://g?", head("GET http://g? HTTP/1.1"))
q("target http://g?a/b", head("GET http://g?a/b HTTP/1.1"))
q("target http://g/a?b#c", head("GET http://g/a?b#c HTTP/1.1"))
q("target http://g//a", head("GET http://g//a HTTP/1.1"))
q("target http://g!/p", head("GET http://g!/p HTTP/1.1"))
q("target absolute bad host header", head("GET http://g/p HTTP/1.1", host="host: a b"))
q("target absolute two hosts", head("GET http://g/p HTTP/1.1", "host: x"))
q("target absolute nominated host", head("GET http://g/p HTTP/1.1", "connection: host"))
q("target absolute post", head("POST http://g/p HTTP/1.1", "content-length: 3") + "abc")
q("target absolute http2 scheme", head("GET http2://g/p HTTP/1.1"))
q("target h", head("GET h://g/p HTTP/1.1"))
for c in ("http:80", "h:", ":80", "h:0", "h:65536", "a.b:1", "h:80/", "h:80?x", "1.2.3.4:5", "u:p@h:80", "h_h:80", "[::1]", "[::1]:x", "h:8x", "*", "h:80#a"):
    q("connect to " + c, head("CONNECT " + c + " HTTP/1.1"))
q("connect fragment", head("CONNECT h:80#f HTTP/1.1"))
q("connect grpc", head("CONNECT h:80 HTTP/1.1", "content-type: application/grpc"))
q("connect 1.0", head("CONNECT h:80 HTTP/1.0"))
q("connect connection xff", head("CONNECT h:80 HTTP/1.1", "connection: x-forwarded-for"))
q("connect cl 00", head("CONNECT h:80 HTTP/1.1", "content-length: 00"))
q("connect te identity", head("CONNECT h:80 HTTP/1.1", "transfer-encoding: identity"))
q("connect cl te", head("CONNECT h:80 HTTP/1.1", "transfer-encoding: chunked", "content-length: 0"))
q("0.9 bad url", "GET *\r\n")
q("0.9 nul", "GET /\x00\r\n")
q("0.9 post", "POST /\r\n")
q("0.9 connect", "CONNECT h:80\r\n")
q("0.9 method only", "GET\r\n")
q("0.9 absolute", "GET http://g/a\r\n")
q("0.9 bad absolute", "GET ftp://g/a\r\n")
q("close 404", head("OPTIONS * HTTP/1.1", "proxy-connection: close"))
q("proxy-connection list", get("proxy-connection: foo, close"))
q("proxy-connection keep-alive with close", get("connection: keep-alive", "proxy-connection: Close"))
q("options * body chunked", head("OPTIONS * HTTP/1.1", "transfer-encoding: chunked") + "0\r\n\r\n")
q("options * cl 0", head("OPTIONS * HTTP/1.1", "content-length: 0") + get())
q("trailer fold first", CH + "3\r\nabc\r\n0\r\n x\r\n\r\n")
q("trailer lone cr line", CH + "3\r\nabc\r\n0\r\nx: y\r\n\rz: w\r\n\r\n")
q("trailer after crcr", CH + "3\r\nabc\r\n0\r\n\r\rx: y\r\n\r\n")
q("trailer end crcrlf crlf", CH + "3\r\nabc\r\n0\r\n\r\r\n\r\n")
q("trailer quote name", CH + '3\r\nabc\r\n0\r\nx"y: y\r\n\r\n')
q("trailer underscore", CH + "3\r\nabc\r\n0\r\nx_y: y\r\n\r\n")
q("trailer fold vt", CH + "3\r\nabc\r\n0\r\nx: y\r\n\x0b z\r\n\r\n")
q("trailer no space", CH + "3\r\nabc\r\n0\r\nx:y\r\n\r\n" + get())
q("trailer cl bad", CH + "3\r\nabc\r\n0\r\ncontent-length: x\r\n\r\n")
for d in (-1, 0, 1):
    q("trailer size %+d" % d, CH + "3\r\nabc\r\n0\r\nx: {{a*%d}}\r\n\r\n" % (61440 - 7 + d))
q("chunk ext cr end", CH + "3;\r\r\nabc\r\n0\r\n\r\n")
q("chunk last ext", CH + "3\r\nabc\r\n0 ;\x01\r\n\r\n")
q("chunk zeros many", CH + "{{0*5000}}3\r\nabc\r\n0\r\n\r\n")
q("chunk junk very long", CH + "3\r\nabc{{x*100000}}\n0\r\n\r\n")
q("chunk term cr lf split", [CH + "3\r\nabc\r", "\n0\r\n\r\n"])
for n in """access-control-allow-origin access-control-request-private-network x-b3-spanid x-envoy-peer-metadata x-envoy-original-method x-ot-span-context x-envoy-foo x-forwarded-scheme x-http-method-override if-unmodified-since grpc-previous-rpc-attempts
    x-envoy-overloaded x-envoy-local-overloaded range authentication-info proxy-authentication x-amzn-trace-id x-cloud-trace-context b3 sec-websocket-version sec-websocket-extensions""".split():
    if not any(c["name"] == "repeat " + n for c in REQUESTS):
        q("repeat " + n, get(n + ": 1", n + ": 2"))
for n in """date server x-client-trace-id grpc-status-details-bin x-envoy-local-overloaded x-envoy-external-address x-envoy-downstream-service-cluster x-forwarded-host x-envoy-original-path age if-match referer authorization access-control-request-method origin
    x-envoy-is-timeout-retry x-envoy-upstream-service-time grpc-accept-encoding grpc-timeout content-md5 x-content-type-options x-powered-by via x-envoy-cluster access-control-allow-private-network timing-allow-origin content-security-policy set-cookie2 trailer keep-alive proxy-connection upgrade x-envoy-protocol-version cookie host accept-encoding""".split():
    if not any(c["name"] == "repeat " + n for c in RESPONSES):
        r("repeat " + n, resp(n + ": 1", n + ": 2", "content-length: 2", body="ok"))
for d in (-1, 0, 1):
    r("size 80K %+d" % d, resp("content-length: 2", "x: {{a*%d}}" % (81920 - L2 + d), body="ok"))
r("size unfinished", "HTTP/1.1 200 OK\r\nx: {{a*90000}}")
for c in (65536, 65586, 65636, 65637, 131272, 99999999999):
    r("code %d" % c, resp("content-length: 2", first="HTTP/1.1 %d OK" % c, body="ok"))
r("code 2 words", resp("content-length: 2", first="HTTP/1.1 200 2 OK", body="ok"))
r("code tail blank", resp("content-length: 2", first="HTTP/1.1 200\tOK", body="ok"))
r("head 304 bare", resp(first="HTTP/1.1 304 X"), method="HEAD")
r("head 101", resp(first="HTTP/1.1 101 X"), method="HEAD")
r("head 500 bare", resp(first="HTTP/1.1 500 X"), method="HEAD")
r("head 204 cl 5", resp("content-length: 5", first="HTTP/1.1 204 X"), method="HEAD")
r("304 cl x", resp("content-length: x", first="HTTP/1.1 304 X"))
r("304 cl te", resp("content-length: 5", "transfer-encoding: chunked", first="HTTP/1.1 304 X"))
r("304 te gzip", resp("transfer-encoding: gzip", first="HTTP/1.1 304 X"))
r("head cl x", resp("content-length: x"), method="HEAD")
r("head te gzip", resp("transfer-encoding: gzip"), method="HEAD")
r("head no body eof", resp("content-length: 5"), method="HEAD", eof=True)
r("te cr inside", resp("transfer-encoding: chun\rked", body="2\r\nok\r\n0\r\n\r\n"), eof=True)
r("te chunked then empty", resp("transfer-encoding: chunked", "transfer-encoding:", body="2\r\nok\r\n0\r\n\r\n"), eof=True)
r("204 te gzip", resp("transfer-encoding: gzip", first="HTTP/1.1 204 X"))
r("204 connection close", resp("connection: close", first="HTTP/1.1 204 X"))
r("chunked lf size", resp("transfer-encoding: chunked", body="2\nok\r\n0\r\n\r\n"))
r("chunked ext", resp("transfer-encoding: chunked", body="2;x=y\r\nok\r\n0\r\n\r\n"))
r("chunked excess", resp("transfer-encoding: chunked", body="2\r\nok\r\n0\r\n\r\njunk"))
r("chunked junk", resp("transfer-encoding: chunked", body="2\r\nokXX\r\n0\r\n\r\n"))
r("chunked trailer long", resp("transfer-encoding: chunked", body="2\r\nok\r\n0\r\nx: {{a*81000}}\r\n\r\n"))
r("chunked trailer too long", resp("transfer-encoding: chunked", body="2\r\nok\r\n0\r\nx: {{a*82000}}\r\n\r\n"))
r("status x8", resp("content-length: 2", first="HTTP/1.1 200 {{a*2000}}", body="ok"))
r("status bell", resp("content-length: 2", first="HTTP/1.1 200 O\x07K", body="ok"))
r("version 1.1x", resp("content-length: 2", first="HTTP/1.1x 200 OK", body="ok"))
r("interim then garbage", resp(first="HTTP/1.1 100 Continue") + "garbage\r\n\r\n")
r("interim crlf", resp(first="HTTP/1.1 100 Continue") + "\r\n" + resp("content-length: 2", body="ok"))
r("1.0 close", resp("content-length: 2", "connection: close", first="HTTP/1.0 200 OK", body="ok"))
r("500", resp("content-length: 2", first="HTTP/1.1 500 X", body="ok"))
r("426 upstream", resp("content-length: 2", "connection: upgrade", "upgrade: h2c", first="HTTP/1.1 426 X", body="ok"))
q("nominated te 2", get("connection: te", "te: gzip, trailers;q=1"))
q("nominated te 3", get("connection: TE", "te: trailers"))
q("nominated te 4", get("connection: te", "te: trailers;q=1"))
q("nominated te 5", get("connection: te", "te: trailers ;q=1"))
q("nominated te 6", get("connection: te", "te: gzip;q=1,trailers"))
q("nominated te 7", get("connection: te", "te: gzip, TRAILERS"))
q("nominated te 8", get("connection: te", "te:"))
q("nominated blanks", get("connection: \tx-a\t, x-b ", "x-a: 1", "x-b: 1"))
q("repeat transfer nominated", get("connection: x-a", "X-A: 1"))
