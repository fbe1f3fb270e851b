package org.fedsup.trainer;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;

/** Buffers outside the Java heap, which the runtime reads and writes without copying. */
final class Buffers {
    private Buffers() {}

    static ByteBuffer bytes(int count) {
        return ByteBuffer.allocateDirect(count).order(ByteOrder.nativeOrder());
    }

    static FloatBuffer floats(int count) {
        return bytes(Float.BYTES * count).asFloatBuffer();
    }

    static IntBuffer ints(int count) {
        return bytes(Integer.BYTES * count).asIntBuffer();
    }

    /** Rewinds a buffer and returns it. Older Androids lack ByteBuffer's own override of it. */
    static <B extends Buffer> B rewound(B buffer) {
        buffer.rewind();
        return buffer;
    }
}
