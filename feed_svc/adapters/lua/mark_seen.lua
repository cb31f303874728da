#!lua flags=allow-cross-slot-keys
-- Append marks to seen records. Common: layout byte, bytes of marks to keep, bytes above which they are cut back to
-- that, ttl in seconds. Items: key, marks (8 bytes each). 1 each. A record of another layout is begun anew.
local layout, kept, most, ttl = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local answer = {}
for place = 6, #ARGV, 2 do
  local key, marks = ARGV[place], ARGV[place + 1]
  local first = redis.pcall('GETRANGE', key, 0, 0)
  local done = first
  if type(first) == 'string' then
    if first == layout then
      done = redis.pcall('APPEND', key, marks)
      if type(done) == 'number' and done > most + 1 then
        done = redis.pcall('SET', key, layout .. redis.pcall('GETRANGE', key, -kept, -1))
      end
    else
      done = redis.pcall('SET', key, layout .. marks)
    end
    redis.pcall('EXPIRE', key, ttl)
  end
  answer[#answer + 1] = type(done) == 'table' and done.err and done or 1
end
return answer
