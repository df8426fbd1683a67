/* SPDX-License-Identifier: MIT */
/* Text into HTML: whatever it holds, it stays text, and the page valid UTF-8. Pure. */
#ifndef LOAD_HTML_H
#define LOAD_HTML_H

#include <stdio.h>

/** html_text - for element content and for attribute values between quotation marks */
void html_text(FILE *out, const char *text);

#endif
