/* Reads HTTP replies for the load generator and checks them while they arrive: status 200,
 * exact length or a proper end of chunks, JSON that starts and ends as an object, events whose
 * texts are " w000000", " w000001", ... in order, then the finish event, then [DONE]. */
#ifndef REPLY_H
#define REPLY_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Count the numbered events only: gateways that write events of their own add others. */
static int only_numbered;

enum phase { HEAD, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, COMPLETE, WRONG };

struct answer {
    enum phase phase;
    int sse, done, next_event, n_events, closes;
    size_t left, line_len; /* bytes left of the body or chunk; bytes of the unfinished line */
    char first, last, line[4096];
    char wrong[160]; /* why phase is WRONG */
};

static void refuse(struct answer *a, const char *why, const char *p, size_t n) {
    snprintf(a->wrong, sizeof a->wrong, "%s: %.*s", why, n > 100 ? 100 : (int)n, p);
    for (char *q = a->wrong; *q; q++) if (*q < 32 || *q == '"' || *q == '\\') *q = ' ';
    a->phase = WRONG;
}

static void start_answer(struct answer *a, int sse) {
    a->phase = HEAD, a->sse = sse, a->done = a->next_event = a->n_events = a->closes = 0;
    a->left = a->line_len = 0, a->first = a->last = 0;
}

static void sse_line(struct answer *a, const char *p, size_t n) {
    if (n && p[n - 1] == '\r') n--;
    if (!n || p[0] == ':') return;
    if (n < 7 || memcmp(p, "data: ", 6)) { refuse(a, "not a data line", p, n); return; }
    if (a->done) { refuse(a, "data after [DONE]", p, n); return; }
    if (n == 12 && !memcmp(p + 6, "[DONE]", 6)) { a->done = 1; return; }
    const char *mark = memmem(p, n, "\" w", 3);
    if (mark && atoi(mark + 3) != a->next_event++) { refuse(a, "event out of order", p, n); return; }
    if (!mark && !memmem(p, n, "finish_reason", 13)) { refuse(a, "error event", p, n); return; }
    a->n_events += mark || !only_numbered;
}

static void content(struct answer *a, const char *p, size_t n) {
    if (!n) return;
    if (!a->first) a->first = *p;
    a->last = p[n - 1];
    while (a->sse && n && a->phase != WRONG) {
        const char *end = memchr(p, '\n', n);
        size_t k = end ? (size_t)(end - p) : n;
        if (!end || a->line_len) {
            if (a->line_len + k > sizeof a->line) { refuse(a, "line too long", p, k); return; }
            memcpy(a->line + a->line_len, p, k);
            a->line_len += k;
        }
        if (!end) return;
        if (a->line_len) sse_line(a, a->line, a->line_len);
        else sse_line(a, p, k);
        a->line_len = 0, p += k + 1, n -= k + 1;
    }
}

static void finish(struct answer *a, int n_expected) {
    char counts[64];
    snprintf(counts, sizeof counts, "%d of %d events, done=%d", a->n_events, n_expected, a->done);
    if (a->phase == WRONG) return;
    a->phase = COMPLETE;
    if (a->sse && (!a->done || a->n_events != n_expected)) refuse(a, "incomplete stream", counts, strlen(counts));
    if (!a->sse && (a->first != '{' || a->last != '}')) refuse(a, "not an object", "", 0);
}

/* Returns the length of the head once it is complete, 0 before. */
static size_t head(struct answer *a, char *p, size_t n) {
    char *end = memmem(p, n, "\r\n\r\n", 4), *length;
    if (!end) { if (n > 16384) refuse(a, "head too long", p, n); return 0; }
    end[2] = 0;
    if (strncmp(p, "HTTP/1.1 200", 12)) { end[2] = '\r'; refuse(a, "status", p + 9, n - 9); return n; }
    a->closes = strcasestr(p, "\r\nconnection: close") != NULL;
    if (a->sse && !strcasestr(p, "\r\ncontent-type: text/event-stream")) refuse(a, "content type", p, n);
    else if ((length = strcasestr(p, "\r\ncontent-length:")))
        a->left = (size_t)atoll(length + 17), a->phase = BODY;
    else if (strcasestr(p, "\r\ntransfer-encoding: chunked")) a->phase = CHUNK_SIZE;
    else refuse(a, "no length", p, n);
    return (size_t)(end - p) + 4;
}

/* Eats what it can of p; returns the bytes eaten (the rest is an unfinished line or head). */
static size_t eat(struct answer *a, char *p, size_t n, int n_expected) {
    size_t at = 0;
    while (a->phase < COMPLETE) {
        char *end;
        size_t k;
        switch (a->phase) {
        case HEAD:
            if (!(k = head(a, p + at, n - at))) return at;
            at += k;
            break;
        case BODY:
        case CHUNK_DATA:
            k = n - at < a->left ? n - at : a->left;
            content(a, p + at, k);
            at += k, a->left -= k;
            if (a->left) return at;
            if (a->phase == BODY) finish(a, n_expected);
            else if (a->phase == CHUNK_DATA) a->phase = CHUNK_END;
            break;
        default:
            if (!(end = memmem(p + at, n - at, "\r\n", 2))) return at;
            k = (size_t)(end - (p + at)), at += k + 2;
            if (a->phase == CHUNK_SIZE)
                a->left = strtoul(end - k, NULL, 16), a->phase = a->left ? CHUNK_DATA : TRAILER;
            else if (k == 0 && a->phase == CHUNK_END) a->phase = CHUNK_SIZE;
            else if (k == 0) finish(a, n_expected);
            else if (a->phase == CHUNK_END) refuse(a, "bad chunk", end - k, k);
        }
    }
    return at;
}

#endif
