package org.fedsup.trainer;

import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;

/** Memory outside of Java's heap, which the runtime reads and writes without a copy. */
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

    /** Goes back to the begin. The method of ByteBuffer itself is not in every Android. */
    static <B extends Buffer> B rewound(B buffer) {
        buffer.rewind();
        return buffer;
    }
}
