"""Requests that a strict server must refuse, or answer in one way only.

Each case: a name, the bytes, the statuses of all answers in order, and whether the connection
is open afterwards. The smuggling cases carry a second request inside; if it were answered there would be
one status too many. Written from RFC 9110, RFC 9112 and from the descriptions of known attacks.
"""

HOST = b"Host: a\r\n"
HIDDEN = b"GET /hello?hidden HTTP/1.1\r\nHost: a\r\n\r\n"
OPEN, CLOSED = True, False


def get(fields=b"", target=b"/hello", version=b"HTTP/1.1", host=HOST):
    return b"GET " + target + b" " + version + b"\r\n" + host + fields + b"\r\n"


def post(fields, body=b"", version=b"HTTP/1.1"):
    return b"POST /hello " + version + b"\r\n" + HOST + fields + b"\r\n" + body


def chunked(body, fields=b""):
    return post(b"Transfer-Encoding: chunked\r\n" + fields, body)


CASES = [
    # What is well-formed has to pass.
    ("plain", get(), [200], OPEN),
    ("pipelined", get() + get() + get(), [200, 200, 200], OPEN),
    ("one empty line first", b"\r\n" + get(), [200], OPEN),
    ("body with a length", post(b"Content-Length: 3\r\n", b"abc") + get(), [200, 200], OPEN),
    ("chunked", chunked(b"3\r\nabc\r\n0\r\n\r\n") + get(), [200, 200], OPEN),
    ("chunked in any case", post(b"transfer-ENCODING: ChUnKeD\r\n", b"0\r\n\r\n"), [200], OPEN),
    ("chunk extensions", chunked(b'3;a=b;c="d e"\r\nabc\r\n0;x\r\n\r\n'), [200], OPEN),
    ("trailers", chunked(b"3\r\nabc\r\n0\r\nX: y\r\nZ:\r\n\r\n"), [200], OPEN),
    ("leading zeros in a chunk size", chunked(b"0003\r\nabc\r\n000\r\n\r\n"), [200], OPEN),
    ("absolute form", get(target=b"http://a/hello"), [200], OPEN),
    ("absolute form, other Host", get(target=b"http://b:80/hello", host=b"Host: a\r\n"), [200], OPEN),
    ("absolute form without path", get(target=b"http://a"), [404], OPEN),
    ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", [204], OPEN),
    ("1.0 without Host", get(version=b"HTTP/1.0", host=b""), [200], CLOSED),
    ("1.0 kept alive", get(b"Connection: keep-alive\r\n", version=b"HTTP/1.0"), [200], OPEN),
    ("Connection: close", get(b"Connection: close\r\n"), [200], CLOSED),
    ("Connection: list with close", get(b"Connection: x, CLOSE\r\n"), [200], CLOSED),
    ("bytes after close are not a request", get(b"Connection: close\r\n") + HIDDEN, [200], CLOSED),
    ("high bytes in a value", get(b"X: \xff\xfe\r\n"), [200], OPEN),
    ("empty value", get(b"X:\r\n"), [200], OPEN),
    ("spaces around a value", get(b"X: \t a \t\r\n"), [200], OPEN),
    ("IPv6 Host", get(host=b"Host: [::1]:80\r\n"), [200], OPEN),
    ("Expect in lower case", post(b"Content-Length: 3\r\nExpect: 100-CONTINUE\r\n", b"abc"), [200], OPEN),
    ("Upgrade is ignored", get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"), [200], OPEN),
    # Two lengths.
    ("two lengths, different", post(b"Content-Length: 3\r\nContent-Length: 40\r\n", b"abc" + HIDDEN), [400], CLOSED),
    ("two lengths, equal", post(b"Content-Length: 3\r\nContent-Length: 3\r\n", b"abc"), [400], CLOSED),
    ("list of lengths", post(b"Content-Length: 3, 3\r\n", b"abc"), [400], CLOSED),
    ("length with a sign", post(b"Content-Length: +3\r\n", b"abc"), [400], CLOSED),
    ("negative length", post(b"Content-Length: -1\r\n", b"abc"), [400], CLOSED),
    ("hexadecimal length", post(b"Content-Length: 0x3\r\n", b"abc"), [400], CLOSED),
    ("empty length", post(b"Content-Length:\r\n", HIDDEN), [400], CLOSED),
    ("length with a space inside", post(b"Content-Length: 1 1\r\n", b"abc"), [400], CLOSED),
    ("length with an underscore", post(b"Content-Length: 1_0\r\n", b"abc"), [400], CLOSED),
    ("length beyond 64 bits", post(b"Content-Length: 18446744073709551619\r\n", b"abc"), [400], CLOSED),
    ("length of 1000 digits", post(b"Content-Length: " + b"9" * 1000 + b"\r\n", b""), [400], CLOSED),
    ("length with a vertical tab", post(b"Content-Length: \x0b3\r\n", b"abc"), [400], CLOSED),
    # RFC 9110 5.5 would allow the tab; who strips it and who does not is what smuggling lives on.
    ("length with a tab behind it", post(b"Content-Length: 3\t\r\n", b"abc"), [400], CLOSED),
    ("coding with a tab behind it", post(b"Transfer-Encoding: chunked\t\r\n", b"0\r\n\r\n"), [400], CLOSED),
    # Length and coding: CL.TE, TE.CL, TE.TE.
    ("length, then coding", post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nG"), [400], CLOSED),
    ("coding, then length", post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n" + HIDDEN), [400], CLOSED),
    ("two codings", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("chunked twice", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("chunked twice in a list", post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("chunked is not last", post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("unknown coding alone", post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("identity", post(b"Transfer-Encoding: identity\r\n", HIDDEN), [400], CLOSED),
    ("unknown coding under chunked", post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), [501], CLOSED),
    ("quoted coding", post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), [400], CLOSED),
    ("coding with a parameter", post(b"Transfer-Encoding: chunked;q=1\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("empty coding", post(b"Transfer-Encoding:\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("coding with an empty member", post(b"Transfer-Encoding: ,chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("coding behind a vertical tab", post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("coding in 1.0", post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", version=b"HTTP/1.0"), [400], CLOSED),
    ("space before the colon of a coding", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("tab before the colon of a length", post(b"Content-Length\t: 3\r\n", b"abc"), [400], CLOSED),
    ("coding on a folded line", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("NUL in a coding's name", post(b"Transfer-Encoding\x00: chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("coding behind a bare CR", post(b"X: y\rTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    ("coding behind a bare LF", post(b"X: y\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), [400], CLOSED),
    # Lines.
    ("bare LF everywhere", b"GET /hello HTTP/1.1\nHost: a\n\n", [400], CLOSED),
    ("head that ends with LF", b"GET /hello HTTP/1.1\r\n" + HOST + b"\n", [400], CLOSED),
    ("CR, then something else", b"GET /hello HTTP/1.1\r\n" + HOST + b"\rX", [400], CLOSED),
    ("CR CR LF", b"GET /hello HTTP/1.1\r\r\nHost: a\r\n\r\n", [400], CLOSED),
    ("folded line", get(b"X: a\r\n b\r\n"), [400], CLOSED),
    ("space before the first field", b"GET /hello HTTP/1.1\r\n Host: a\r\n\r\n", [400], CLOSED),
    ("no colon", get(b"Nonsense\r\n"), [400], CLOSED),
    ("empty name", get(b": x\r\n"), [400], CLOSED),
    ("space in a name", get(b"X Y: z\r\n"), [400], CLOSED),
    ("high byte in a name", get(b"X\xff: y\r\n"), [400], CLOSED),
    ("bracket in a name", get(b"X[]: y\r\n"), [400], CLOSED),
    ("NUL in a value", get(b"X: a\x00b\r\n"), [400], CLOSED),
    ("control byte in a value", get(b"X: a\x08b\r\n"), [400], CLOSED),
    ("DEL in a value", get(b"X: a\x7fb\r\n"), [400], CLOSED),
    ("many empty lines first", b"\r\n" * 4 + get(), [400], CLOSED),
    # Host.
    ("no Host", get(host=b""), [400], CLOSED),
    ("two Hosts", get(b"Host: b\r\n"), [400], CLOSED),
    ("two Hosts in 1.0", get(b"Host: b\r\n", version=b"HTTP/1.0"), [400], CLOSED),
    ("empty Host", get(host=b"Host:\r\n"), [400], CLOSED),
    ("Host with a path", get(host=b"Host: a/b\r\n"), [400], CLOSED),
    ("Host with a user", get(host=b"Host: u@a\r\n"), [400], CLOSED),
    ("Host with a space", get(host=b"Host: a b\r\n"), [400], CLOSED),
    ("Host list", get(host=b"Host: a, b\r\n"), [400], CLOSED),
    ("Host with a bad port", get(host=b"Host: a:70000\r\n"), [400], CLOSED),
    ("Host with a bad escape", get(host=b"Host: a%zz\r\n"), [400], CLOSED),
    # The request line.
    ("no version", b"GET /hello\r\n" + HOST + b"\r\n", [400], CLOSED),
    ("two spaces", b"GET  /hello HTTP/1.1\r\n" + HOST + b"\r\n", [400], CLOSED),
    ("tab between", b"GET\t/hello\tHTTP/1.1\r\n" + HOST + b"\r\n", [400], CLOSED),
    ("space at the end", b"GET /hello HTTP/1.1 \r\n" + HOST + b"\r\n", [400], CLOSED),
    ("space in the target", b"GET /hel lo HTTP/1.1\r\n" + HOST + b"\r\n", [400], CLOSED),
    ("version in lower case", get(version=b"http/1.1"), [400], CLOSED),
    ("version with two digits", get(version=b"HTTP/1.10"), [400], CLOSED),
    ("version with a comma", get(version=b"HTTP/1,1"), [400], CLOSED),
    ("another protocol", get(version=b"ICE/1.1"), [400], CLOSED),
    ("HTTP/2.0", get(version=b"HTTP/2.0"), [505], CLOSED),
    ("HTTP/0.9", get(version=b"HTTP/0.9"), [505], CLOSED),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [505], CLOSED),
    ("TLS on a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400], CLOSED),
    ("method with a slash", b"GE/T /hello HTTP/1.1\r\n" + HOST + b"\r\n", [400], CLOSED),
    ("unknown method", b"FROB /hello HTTP/1.1\r\n" + HOST + b"\r\n", [501], CLOSED),
    ("method in lower case", b"get /hello HTTP/1.1\r\n" + HOST + b"\r\n", [501], CLOSED),
    ("method of RTSP", b"DESCRIBE /hello HTTP/1.1\r\n" + HOST + b"\r\n", [501], CLOSED),
    ("CONNECT", b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n", [501], CLOSED),
    ("asterisk for GET", get(target=b"*"), [400], CLOSED),
    ("authority form for GET", get(target=b"a:80"), [400], CLOSED),
    ("path without a slash", get(target=b"hello"), [400], CLOSED),
    ("fragment", get(target=b"/hello#x"), [400], CLOSED),
    ("high byte in the target", get(target=b"/h\xc3\xa9"), [400], CLOSED),
    ("absolute form with a user", get(target=b"http://u@a/hello"), [400], CLOSED),
    ("absolute form of another scheme", get(target=b"gopher://a/hello"), [400], CLOSED),
    ("absolute form without a host", get(target=b"http:///hello"), [400], CLOSED),
    # The path: refused, but the framing is known, so the connection lives.
    ("dot segments", get(target=b"/x/../hello"), [400], OPEN),
    ("escaped dot segments", get(target=b"/x/%2e%2E/hello"), [400], OPEN),
    ("escaped slash", get(target=b"/x%2fhello"), [400], OPEN),
    ("escaped NUL", get(target=b"/hello%00"), [400], OPEN),
    ("malformed escape", get(target=b"/%zz"), [400], OPEN),
    ("unknown path", get(target=b"/nothing") + get(), [404, 200], OPEN),
    ("other method, with body", post(b"Content-Length: 3\r\n", b"abc").replace(b"POST", b"PUT") + get(), [405, 200], OPEN),
    # Chunks.
    ("chunk size missing", chunked(b"\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk size not hexadecimal", chunked(b"g\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk size with 0x", chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk size with a sign", chunked(b"+3\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("negative chunk size", chunked(b"-3\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk size with a space", chunked(b"3 \r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("space before a chunk size", chunked(b" 3\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk size that overflows", chunked(b"10000000000000003\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk size line ends with LF", chunked(b"3\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk size line ends with CR X", chunked(b"3\rXabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("chunk longer than its size", chunked(b"3\r\nabcd\r\n0\r\n\r\n" + HIDDEN), [400], CLOSED),
    ("chunk data ends with LF", chunked(b"3\r\nabc\n0\r\n\r\n"), [400], CLOSED),
    ("extension with LF", chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("extension with bare CR", chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("extension with NUL", chunked(b"3;a\x00\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("long extension", chunked(b"3;" + b"a" * 300 + b"\r\nabc\r\n0\r\n\r\n"), [400], CLOSED),
    ("body ends with CR X", chunked(b"0\r\n\rX" + HIDDEN), [400], CLOSED),
    ("body ends with LF", chunked(b"0\r\n\n" + HIDDEN), [400], CLOSED),
    ("trailer without a colon", chunked(b"0\r\nabc\r\n\r\n"), [400], CLOSED),
    ("folded trailer", chunked(b"0\r\nA: b\r\n c\r\n\r\n"), [400], CLOSED),
    ("trailer with a space before the colon", chunked(b"0\r\nA : b\r\n\r\n"), [400], CLOSED),
    ("NUL in a trailer", chunked(b"0\r\nA: \x00\r\n\r\n"), [400], CLOSED),
    ("trailers too large", chunked(b"0\r\n" + b"A: b\r\n" * 8000 + b"\r\n"), [431], CLOSED),
    # Expectations and connections.
    ("unknown expectation", post(b"Expect: 200-ok\r\nContent-Length: 3\r\n", b"abc"), [417], CLOSED),
    ("malformed Connection", get(b"Connection: a b\r\n"), [400], CLOSED),
    # Limits.
    ("long target", get(target=b"/" + b"a" * 9000), [414], CLOSED),
    ("endless target", b"GET /" + b"a" * 40000, [414], CLOSED),
    ("large head", get(b"X: " + b"a" * 40000 + b"\r\n"), [431], CLOSED),
    ("101 fields", get(b"X: y\r\n" * 101), [431], CLOSED),
    ("large body by length", post(b"Content-Length: 2000000\r\n"), [413], CLOSED),
]
