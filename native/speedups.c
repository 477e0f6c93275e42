/* For plain JSON, what llm_cache_mem otherwise does in Python: canonical text, copies, comparison.
Plain is exact str, int, float, bool, None, list, and dict with exact str keys. For anything else
(subclasses, NaN, integers beyond 64 bits, half surrogates, too deep, too much) it returns
NotImplemented, and Python decides. Nothing here runs Python code or lets another thread in, so a
caller's objects cannot change while they are looked at. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define MAX_DEPTH 100    /* containers inside one another, as in values.plain */
#define MAX_NODES 249999 /* containers in all */
#define LARGE 8192       /* bytes of text that may be recognised, if a container has so many: */
#define SPARSE 1024      /* with less of either, writing is as quick */
#define FEW 16           /* entries of a dict, sorted by insertion */
#define IS_TEXT(value) (PyUnicode_CheckExact(value) && PyUnicode_IS_READY(value))
#define IS_CONTAINER(value) (PyDict_CheckExact(value) || PyList_CheckExact(value))
#define IS_NUMBER(value) (PyLong_CheckExact(value) || PyFloat_CheckExact(value))
#define TEXT_BYTES(text) ((size_t)(PyUnicode_GET_LENGTH(text) * PyUnicode_KIND(text)))

enum { OK, ODD, LONG, FAILED }; /* ODD: back to Python; LONG: to recognise; FAILED: exception */

static PyObject *answer(int done, PyObject *made) {
    if (done != OK)
        Py_CLEAR(made);
    return done == ODD ? Py_NewRef(Py_NotImplemented) : made;
}

static int is_odd_number(PyObject *value) { /* NaN, infinity, an integer beyond 64 bits */
    int odd = PyFloat_CheckExact(value) && !isfinite(PyFloat_AS_DOUBLE(value));
    return PyLong_CheckExact(value) ? (PyLong_AsLongLongAndOverflow(value, &odd), odd) : odd;
}

/* -- Prints: numbers that tell most values apart */
#define MIX(lane, word) (((lane) ^ (word)) * 0x9E3779B97F4A7C15ULL)
static unsigned long long print_of(PyObject *value, int *seen, int depth) { /* seen: containers */
    unsigned long long lanes[4] = {1, 2, 3, 4}, words[4] = {0};
    PyObject *key, *item;
    Py_ssize_t at = 0, n;
    if (IS_TEXT(value)) {
        const char *from = PyUnicode_DATA(value);
        n = (Py_ssize_t)TEXT_BYTES(value);
        for (lanes[0] += (size_t)n; n >= 32; n -= 32, from += 32)
            for (int i = 0; i < 4; i++)
                lanes[i] = MIX(lanes[i], *(unsigned long long *)memcpy(words + i, from + 8 * i, 8));
        memcpy(words, from, (size_t)n);
        lanes[0] = MIX(MIX(lanes[0], words[0]), words[1]) + MIX(MIX(lanes[1], words[2]), words[3]);
    } else if (IS_NUMBER(value))
        lanes[1] = (size_t)PyObject_Hash(value);
    else if (!IS_CONTAINER(value) || depth == MAX_DEPTH || ++*seen > MAX_NODES)
        lanes[3] = (size_t)Py_TYPE(value) + (value == Py_True);
    else if (PyDict_CheckExact(value)) /* in any order */
        while (PyDict_Next(value, &at, &key, &item))
            lanes[0] += MIX(print_of(key, seen, MAX_DEPTH) >> 7, print_of(item, seen, depth + 1));
    else
        for (; at < PyList_GET_SIZE(value); at++)
            lanes[1] = MIX(lanes[1] >> 7, print_of(PyList_GET_ITEM(value, at), seen, depth + 1));
    return MIX(lanes[0], lanes[1] >> 9) ^ MIX(lanes[2], lanes[3] >> 11);
}

/* -- Canonical text: json.dumps(value, sort_keys=True).encode() */
typedef struct {
    char *text, *heap, start[4096]; /* text: at start, or where it is longer at heap */
    Py_ssize_t used, size;
    int nodes, whole; /* whole: written out even where it might be recognised */
} Text;
static int grow(Text *t, Py_ssize_t n) {
    if (!t->whole && t->used + n > LARGE && (t->used + n) / SPARSE > t->nodes)
        return LONG;
    t->size = t->size * (t->heap ? 4 : 2) + n;
    char *more = PyMem_Realloc(t->heap, (size_t)t->size);
    if (!more)
        return (PyErr_NoMemory(), FAILED);
    t->text = t->heap ? more : memcpy(more, t->start, (size_t)t->used);
    t->heap = more;
    return OK;
}

#define MAKE_ROOM(t, n) ((n) <= (t)->size - (t)->used ? OK : grow(t, n))
static inline int put(Text *t, const void *from, Py_ssize_t n) {
    int done = MAKE_ROOM(t, n);
    if (!done)
        memcpy(t->text + t->used, from, (size_t)n), t->used += n;
    return done;
}

static int put_escaped(Text *t, Py_UCS4 c) {
    static const char special[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
    static const char hex[] = "0123456789abcdef";
    const char *found = c && c < 0x80 ? strchr(special, (int)c) : NULL;
    char text[12] = {'\\', found ? letters[found - special] : 'u', [6] = '\\', [7] = 'u'};
    if (found)
        return put(t, text, 2);
    if (c >= 0xD800 && c < 0xE000)
        return ODD;
    Py_UCS4 units[2] = {c < 0x10000 ? c : 0xD7C0 + (c >> 10), 0xDC00 + (c & 0x3FF)};
    for (int i = 0; i < 8; i++)
        text[i < 4 ? 2 + i : 4 + i] = hex[units[i / 4] >> (12 - i % 4 * 4) & 15];
    return put(t, text, c < 0x10000 ? 6 : 12);
}

#define EACH(byte) (0x0101010101010101ULL * (byte)) /* of eight */
#define ANY_ESCAPED(x) \
    (((x) | ((x) + EACH(1)) | ((x) - EACH(' ')) | (((x) ^ EACH('"')) - EACH(1)) \
      | (((x) ^ EACH('\\')) - EACH(1))) & EACH(0x80))
#define IS_UNESCAPED(c) (((c) >= 0x20) & ((c) < 0x7f) & ((c) != '"') & ((c) != '\\'))
static int put_string(Text *t, PyObject *string) {
    Py_ssize_t n = PyUnicode_GET_LENGTH(string), i = 0;
    int kind = PyUnicode_KIND(string), done = put(t, "\"", 1);
    const unsigned char *data = PyUnicode_DATA(string);
    Py_UCS4 c = 0;
    while (!done && !(done = MAKE_ROOM(t, n - i + 1))) {
        char *to = t->text + t->used - i;
        for (; kind == PyUnicode_1BYTE_KIND && i + 32 <= n; i += 32) {
            unsigned char odd = 0;
            for (int j = 0; j < 32; j++) /* no branch in here: compilers make vectors of it */
                odd |= !IS_UNESCAPED(data[i + j]);
            if (odd)
                break;
            memcpy(to + i, data + i, 32);
        }
        for (unsigned long long eight; kind == PyUnicode_1BYTE_KIND && i + 8 <= n; i += 8) {
            memcpy(&eight, data + i, 8);
            if (ANY_ESCAPED(eight))
                break;
            memcpy(to + i, &eight, 8);
        }
        while (i < n && (c = PyUnicode_READ(kind, data, i), IS_UNESCAPED(c)))
            to[i++] = (char)c;
        t->used = to + i - t->text;
        if (i == n)
            return put(t, "\"", 1);
        done = put_escaped(t, c);
        i++;
    }
    return done;
}

static int by_key(const void *one, const void *other) {
    return PyUnicode_Compare(*(PyObject *const *)one, *(PyObject *const *)other);
}

static int put_value(Text *t, PyObject *value, int depth);
static int put_dict(Text *t, PyObject *dict, int depth) {
    PyObject *(*pairs)[2] = PyMem_Malloc((size_t)PyDict_GET_SIZE(dict) * sizeof *pairs), *pair[2];
    int done = pairs ? put(t, "{", 1) : (PyErr_NoMemory(), FAILED);
    Py_ssize_t n = 0, at = 0, i;
    for (; !done && PyDict_Next(dict, &at, &pair[0], &pair[1]); n++) {
        done = IS_TEXT(pair[0]) ? OK : ODD;
        for (i = n; !done && i && n < FEW && by_key(pairs[i - 1], pair) > 0; i--)
            memcpy(pairs[i], pairs[i - 1], sizeof pair);
        memcpy(pairs[i], pair, sizeof pair);
    }
    if (!done && n > FEW)
        qsort(pairs, (size_t)n, sizeof *pairs, by_key);
    for (i = 0; !done && i < n; i++)
        if (!(done = i ? put(t, ", ", 2) : OK) && !(done = put_string(t, pairs[i][0]))
            && !(done = put(t, ": ", 2)))
            done = put_value(t, pairs[i][1], depth);
    PyMem_Free(pairs);
    return done ? done : put(t, "}", 1);
}

static int put_value(Text *t, PyObject *value, int depth) {
    char text[32], *repr;
    if (IS_TEXT(value))
        return put_string(t, value);
    if (value == Py_None || PyBool_Check(value))
        return value == Py_None ? put(t, "null", 4)
               : value == Py_True ? put(t, "true", 4) : put(t, "false", 5);
    if (IS_NUMBER(value) ? is_odd_number(value)
                         : !IS_CONTAINER(value) || depth == MAX_DEPTH || ++t->nodes > MAX_NODES)
        return ODD;
    if (PyLong_CheckExact(value))
        return put(t, text, PyOS_snprintf(text, sizeof text, "%lld", PyLong_AsLongLong(value)));
    if (PyFloat_CheckExact(value)) {
        repr = PyOS_double_to_string(PyFloat_AS_DOUBLE(value), 'r', 0, Py_DTSF_ADD_DOT_0, NULL);
        int done = repr ? put(t, repr, (Py_ssize_t)strlen(repr)) : FAILED;
        return (PyMem_Free(repr), done);
    }
    if (PyDict_CheckExact(value))
        return put_dict(t, value, depth + 1);
    int done = put(t, "[", 1);
    for (Py_ssize_t i = 0; !done && i < PyList_GET_SIZE(value); i++)
        if (!(done = i ? put(t, ", ", 2) : OK))
            done = put_value(t, PyList_GET_ITEM(value, i), depth + 1);
    return done ? done : put(t, "]", 1);
}

static PyObject *text_of(PyObject *value, int whole) {
    Text t;
    t.text = t.start, t.heap = NULL, t.used = t.nodes = 0, t.size = sizeof t.start, t.whole = whole;
    int done = put_value(&t, value, 0);
    PyObject *bytes = done ? NULL : PyBytes_FromStringAndSize(t.text, t.used);
    PyMem_Free(t.heap);
    return done == LONG ? PyLong_FromUnsignedLongLong(print_of(value, &(int){0}, 0))
                        : answer(done, bytes);
}

static PyObject *canonical(PyObject *module, PyObject *value) { return text_of(value, 1); }
static PyObject *text_or_print(PyObject *module, PyObject *value) { return text_of(value, 0); }

/* -- Copies: containers anew, the rest shared, since it cannot change */
typedef struct {
    int resting, nodes; /* resting: for us alone, without a cycle, so no garbage to look for */
    Py_ssize_t size;    /* about how many bytes it all is */
} Copy;
static PyObject *names; /* of fields: one object for each in all that rests, 4,096 of 40 letters */
static PyObject *shared(PyObject *key) {
    int add = PyUnicode_GET_LENGTH(key) <= 40 && PyDict_GET_SIZE(names) < 4096;
    PyObject *own = add ? PyDict_SetDefault(names, key, key) : PyDict_GetItemWithError(names, key);
    return own ? own : (PyErr_Clear(), key);
}

static int copied(Copy *c, PyObject *value, int depth, PyObject **made) {
    int done = OK, is_dict = PyDict_CheckExact(value), is_text = IS_TEXT(value);
    PyObject *key, *item, *own;
    Py_ssize_t n, i, at = 0;
    c->size += 64 + (is_text ? (Py_ssize_t)TEXT_BYTES(value) : 0);
    if (!IS_CONTAINER(value)) {
        *made = Py_NewRef(value);
        return is_text || value == Py_None || PyBool_Check(value)
               || (IS_NUMBER(value) && !is_odd_number(value)) ? OK : ODD;
    }
    if (depth == MAX_DEPTH || ++c->nodes > MAX_NODES)
        return ODD;
    n = is_dict ? PyDict_GET_SIZE(value) : PyList_GET_SIZE(value);
    c->size += n * (is_dict ? 64 : 8);
    *made = !is_dict ? PyList_New(n) : c->resting ? PyDict_New() : PyDict_Copy(value);
    if (!*made)
        return FAILED;
    for (i = 0; !done && i < n && (!is_dict || PyDict_Next(value, &at, &key, &item)); i++) {
        if (is_dict && !IS_TEXT(key))
            return ODD;
        c->size += is_dict ? (Py_ssize_t)TEXT_BYTES(key) : 0;
        own = NULL;
        done = copied(c, is_dict ? item : PyList_GET_ITEM(value, i), depth + 1, &own);
        if (!done && !is_dict)
            PyList_SET_ITEM(*made, i, Py_NewRef(own));
        else if (!done && (c->resting || own != item))
            done = PyDict_SetItem(*made, c->resting ? shared(key) : key, own) ? FAILED : OK;
        Py_XDECREF(own);
    }
    if (c->resting == PyObject_GC_IsTracked(*made))
        (c->resting ? PyObject_GC_UnTrack : PyObject_GC_Track)(*made);
    return done;
}

static PyObject *copy_of(PyObject *value, int resting) {
    Copy c = {resting, 0, 0};
    PyObject *made = NULL;
    int collecting = PyGC_Disable(); /* a finalizer might change what is being copied */
    int done = names || (names = PyDict_New()) ? copied(&c, value, 0, &made) : FAILED;
    if (collecting)
        PyGC_Enable();
    return done || !resting ? answer(done, made) : Py_BuildValue("Nn", made, c.size);
}

static PyObject *copy(PyObject *module, PyObject *value) { return copy_of(value, 0); }
static PyObject *snapshot(PyObject *module, PyObject *value) { return copy_of(value, 1); }

/* -- Recognition: by values and types, so that 1, 1.0 and True differ, and 0.0 and -0.0 */
static int is_same(PyObject *own, PyObject *value) { /* own comes from snapshot */
    PyObject *key, *item, *known;
    Py_ssize_t at = 0;
    if (own == value || Py_TYPE(own) != Py_TYPE(value))
        return own == value;
    if (IS_TEXT(own))
        return IS_TEXT(value) && PyUnicode_KIND(own) == PyUnicode_KIND(value)
               && PyUnicode_GET_LENGTH(own) == PyUnicode_GET_LENGTH(value)
               && !memcmp(PyUnicode_DATA(own), PyUnicode_DATA(value), TEXT_BYTES(own));
    if (PyFloat_CheckExact(own))
        return !memcmp(&(double){PyFloat_AS_DOUBLE(own)}, &(double){PyFloat_AS_DOUBLE(value)}, 8);
    if (PyLong_CheckExact(own))
        return PyObject_RichCompareBool(own, value, Py_EQ);
    if (PyList_CheckExact(own)) {
        Py_ssize_t n = PyList_GET_SIZE(own) == PyList_GET_SIZE(value) ? PyList_GET_SIZE(own) : -1;
        while (at < n && is_same(PyList_GET_ITEM(own, at), PyList_GET_ITEM(value, at)))
            at++;
        return at == n;
    }
    if (!PyDict_CheckExact(own) || PyDict_GET_SIZE(own) != PyDict_GET_SIZE(value))
        return 0;
    while (PyDict_Next(value, &at, &key, &item))
        if (!IS_TEXT(key) || !(known = PyDict_GetItemWithError(own, key)) || !is_same(known, item))
            return 0;
    return 1;
}

static PyObject *same(PyObject *module, PyObject *const *args, Py_ssize_t n) {
    return PyBool_FromLong(n == 2 && is_same(args[0], args[1]));
}

static PyMethodDef methods[] = {
    {"canonical", canonical, METH_O, "The canonical text of a plain value, as bytes."},
    {"text_or_print", text_or_print, METH_O, "The same, or a print of what to recognise."},
    {"copy", copy, METH_O, "A plain value anew."},
    {"snapshot", snapshot, METH_O, "A copy that nothing but this module reads, and its size."},
    {"same", (PyCFunction)(void (*)(void))same, METH_FASTCALL, "Whether a snapshot is a value."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_speedups", .m_methods = methods};
PyMODINIT_FUNC PyInit__speedups(void) { return PyModuleDef_Init(&definition); }
